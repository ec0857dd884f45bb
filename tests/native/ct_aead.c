/*
 * ct_aead.c - does any branch or any address depend on a secret? The keys and the plaintexts are marked as undefined
 * memory, then packets are sealed and opened; the checker reports every branch on, and every address made of,
 * something that was computed from them.
 *
 * Built twice by `make -C tests/native ct`: as the module is built, under valgrind's memcheck (which knows AVX2 but
 * not AVX-512), and under clang's MemorySanitizer, which runs both kernels. What is public by nature is marked as
 * defined again: ciphertexts and tags that were sealed, and whether a tag is right. Includes the source, to see the
 * comparison of tags alone.
 */
#include "../../native/src/aead_wide.c"

#include "check.h"

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#define UNDER_MSAN
#endif
#endif

#ifdef UNDER_MSAN
#include <sanitizer/msan_interface.h>
#define SECRET(at, n) __msan_poison(at, n)
#define PUBLIC(at, n) __msan_unpoison(at, n)
static bool checked(void) { return true; }
#else
#include <valgrind/memcheck.h>
#define SECRET(at, n) VALGRIND_MAKE_MEM_UNDEFINED(at, n)
#define PUBLIC(at, n) VALGRIND_MAKE_MEM_DEFINED(at, n)
static bool checked(void) { return RUNNING_ON_VALGRIND; }
#endif

#ifdef MH_WIDE_X86
static const mh_wide *const all[] = {&mh_wide_avx512, &mh_wide_avx2, NULL};
#else
static const mh_wide *const all[] = {NULL};
#endif
static const mh_wide *real;

/* The tags of packets that came in: the comparison with them is looked at by itself, below. */
static void public_tags(const mh_wide_keys *keys, const mh_aead_job *jobs, size_t n, uint8_t (*tags)[MH_TAG_LEN]) {
    real->tags(keys, jobs, n, tags);
    PUBLIC(tags, n * MH_TAG_LEN);
}

static void seal_and_open(const uint32_t *lengths, size_t n, size_t bad) {
    static uint8_t data[MH_WIDE][2000];
    uint32_t key[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    mh_aead_job jobs[MH_WIDE];
    mh_wide kernel = *real;
    kernel.tags = public_tags;
    for (size_t i = 0; i < n; i++) {
        jobs[i] = (mh_aead_job){.data = data[i] + i, .len = lengths[i], .counter = i};
        PUBLIC(data[i], sizeof data[i]);
        memset(data[i], (int)i, sizeof data[i]);
        SECRET(jobs[i].data, lengths[i]);
    }
    SECRET(key, sizeof key);
    mh_wide_seal(real, key, jobs, n);
    for (size_t i = 0; i < n; i++)
        PUBLIC(jobs[i].data, lengths[i] + MH_TAG_LEN);
    jobs[bad].data[lengths[bad]] ^= 1;
    CHECK(mh_wide_open(&kernel, key, jobs, n) == n - 1);
    for (size_t i = 0; i < n; i++) {
        PUBLIC(data[i], sizeof data[i]);
        for (size_t at = 0; at < lengths[i]; at++)
            CHECK(jobs[i].data[at] == (i == bad ? 0 : i));
    }
}

static void compare_tags(void) {
    uint8_t a[MH_TAG_LEN] = {1}, b[MH_TAG_LEN] = {1};
    for (int different = 0; different < 2; different++) {
        b[7] = (uint8_t)different;
        SECRET(a, sizeof a);
        SECRET(b, sizeof b);
        volatile bool same = same_tag(a, b);
        PUBLIC((void *)&same, sizeof same);
        CHECK(same == !different);
        PUBLIC(b, sizeof b);
    }
}

/* To see that the checker sees: nothing of the way from the key to the tag may lose the mark. */
static void branch_on_a_tag(void) {
    uint8_t data[100 + MH_TAG_LEN] = {0};
    uint32_t key[8] = {0};
    mh_aead_job job = {.data = data, .len = 100};
    SECRET(key, sizeof key);
    mh_wide_seal(real, key, &job, 1);
    PUBLIC(data, 100);
    if (data[100] & 1)
        puts("a branch on a tag");
}

int main(int argc, char **argv) {
    (void)argv;
    if (!checked()) {
        fprintf(stderr, "run this under valgrind, or build it with MemorySanitizer\n");
        return 2;
    }
    compare_tags();
    for (const mh_wide *const *one = all; (real = *one); one++) {
        if (!real->supported()) {
            printf("  -- no %s here: not checked\n", real->name);
            continue;
        }
        if (argc > 1) {
            branch_on_a_tag();
            return 0;
        }
        for (size_t n = 1; n <= MH_WIDE; n++) {
            uint32_t mixed[MH_WIDE], same[MH_WIDE];
            for (size_t i = 0; i < n; i++) {
                mixed[i] = (uint32_t)((i * 211 + n * 37) % 1500);
                same[i] = (uint32_t)(n * 89);
            }
            seal_and_open(mixed, n, n / 2);
            seal_and_open(same, n, n - 1);
        }
        printf("  ok %s: no branch and no address depends on a key or a plaintext\n", real->name);
    }
    return 0;
}
