/* test_aead.c - seal and open in buffers of the exact size, so that the sanitizers see any byte too many. */
#include "aead.h"
#include "check.h"

static const uint8_t secret[MH_KEY_LEN] = {1, 2, 3, 4, 5};

static void every_length_opens_to_what_was_sealed(void) {
    uint64_t seed = 1;
    mh_aead_key *key = mh_aead_key_new(secret);
    CHECK(key);
    for (uint32_t len = 0; len <= 1600; len++) {
        uint8_t *plain = malloc(len + 1), *data = malloc(len + MH_TAG_LEN);
        CHECK(plain && data);
        random_bytes(&seed, plain, len);
        memcpy(data, plain, len);
        mh_aead_job job = {.data = data, .len = len, .counter = random_u64(&seed)};
        CHECK(mh_aead_seal(key, &job, 1) == 1 && job.ok);
        CHECK(len < 16 || memcmp(data, plain, len) != 0);
        job.ok = false;
        CHECK(mh_aead_open(key, &job, 1) == 1 && job.ok);
        CHECK(memcmp(data, plain, len) == 0);
        free(plain);
        free(data);
    }
    mh_aead_key_free(key);
}

static void a_bad_job_is_wiped_and_harms_no_other(void) {
    uint8_t data[8][100 + MH_TAG_LEN];
    mh_aead_job jobs[8];
    mh_aead_key *key = mh_aead_key_new(secret);
    CHECK(key);
    for (size_t i = 0; i < 8; i++) {
        memset(data[i], (int)i + 1, 100);
        jobs[i] = (mh_aead_job){.data = data[i], .len = 100, .counter = i};
    }
    CHECK(mh_aead_seal(key, jobs, 8) == 8);
    data[2][50] ^= 1;   /* the text */
    data[5][115] ^= 64; /* the tag */
    jobs[6].counter++;
    CHECK(mh_aead_open(key, jobs, 8) == 5);
    for (size_t i = 0; i < 8; i++) {
        bool bad = i == 2 || i == 5 || i == 6;
        CHECK(jobs[i].ok == !bad);
        for (size_t at = 0; at < 100; at++)
            CHECK(data[i][at] == (bad ? 0 : i + 1));
    }
    mh_aead_key_free(key);
}

static void nothing_is_a_valid_burst_and_no_key_can_be_freed(void) {
    mh_aead_key *key = mh_aead_key_new(secret);
    CHECK(key);
    CHECK(mh_aead_seal(key, NULL, 0) == 0 && mh_aead_open(key, NULL, 0) == 0);
    mh_aead_key_free(key);
    mh_aead_key_free(NULL);
}

int main(void) {
    RUN(every_length_opens_to_what_was_sealed);
    RUN(a_bad_job_is_wiped_and_harms_no_other);
    RUN(nothing_is_a_valid_burst_and_no_key_can_be_freed);
    return 0;
}
