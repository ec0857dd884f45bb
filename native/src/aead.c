/*
 * aead.c - which code seals and opens: the choice of a kernel, and for each burst, whether it is worth one.
 */
#include "aead.h"

#include "aead_libcrypto.h"
#include "aead_wide.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct mh_aead_key {
    pthread_mutex_t seal_lock; /* of libcrypto's context, which each packet changes */
    mh_libcrypto libcrypto;
    const mh_wide *wide; /* NULL: libcrypto alone */
    uint32_t words[8];
};

/* The wide kernels of this build, the best first. */
static const mh_wide *const kernels[] = {
#ifdef MH_WIDE_X86
    &mh_wide_avx512,
    &mh_wide_avx2,
#endif
    NULL,
};

/* Written once, under choose_once, and only read after. */
static pthread_once_t choose_once = PTHREAD_ONCE_INIT;
static const char *chosen_name;
static const mh_wide *chosen_wide;
static char complaint[200];

/* The wide kernel of that name, or why it cannot be had. */
static const mh_wide *find(const char *name, const char **why) {
    for (const mh_wide *const *kernel = kernels; *kernel; kernel++) {
        if (strcmp((*kernel)->name, name) != 0)
            continue;
        if (!(*kernel)->supported())
            *why = "which this CPU or operating system does not support";
        else if (!mh_wide_selftest(*kernel))
            *why = "which fails its self-test on this machine";
        else
            return *kernel;
        return NULL;
    }
    *why = "but this build knows libcrypto"
#ifdef MH_WIDE_X86
           ", avx2 and avx512"
#endif
           " only";
    return NULL;
}

static void choose(void) {
    const char *asked = secure_getenv("MOLEHILL_AEAD"), *why = NULL;
    if (asked && strcmp(asked, "libcrypto") == 0) {
        chosen_name = "libcrypto";
    } else if (asked) {
        chosen_wide = find(asked, &why);
        if (chosen_wide)
            chosen_name = chosen_wide->name;
        else
            snprintf(complaint, sizeof complaint, "MOLEHILL_AEAD asks for \"%.40s\", %s", asked, why);
    } else {
        chosen_name = "libcrypto";
        for (const mh_wide *const *kernel = kernels; *kernel && !chosen_wide; kernel++) {
            if (!(*kernel)->supported())
                continue;
            if (mh_wide_selftest(*kernel))
                chosen_wide = *kernel, chosen_name = (*kernel)->name;
            else
                snprintf(complaint, sizeof complaint, "the AEAD kernel %s fails its self-test and is not used",
                         (*kernel)->name);
        }
    }
}

const char *mh_aead_kernel(void) {
    pthread_once(&choose_once, choose);
    return chosen_name;
}

const char *mh_aead_complaint(void) {
    pthread_once(&choose_once, choose);
    return complaint[0] ? complaint : NULL;
}

static mh_aead_key *key_new(const mh_wide *wide, const uint8_t key[MH_KEY_LEN]) {
    mh_aead_key *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    if (!mh_libcrypto_init(&k->libcrypto, key)) {
        free(k);
        return NULL;
    }
    pthread_mutex_init(&k->seal_lock, NULL); /* a default mutex: cannot fail on Linux */
    k->wide = wide;
    for (size_t i = 0; i < 8; i++)
        k->words[i] = mh_get32le(key + 4 * i);
    return k;
}

mh_aead_key *mh_aead_key_new(const uint8_t key[MH_KEY_LEN]) {
    return mh_aead_kernel() ? key_new(chosen_wide, key) : NULL;
}

mh_aead_key *mh_aead_key_new_with(const char *kernel, const uint8_t key[MH_KEY_LEN]) {
    const char *why;
    const mh_wide *wide = strcmp(kernel, "libcrypto") == 0 ? NULL : find(kernel, &why);
    return wide || strcmp(kernel, "libcrypto") == 0 ? key_new(wide, key) : NULL;
}

void mh_aead_key_free(mh_aead_key *key) {
    if (!key)
        return;
    pthread_mutex_destroy(&key->seal_lock);
    mh_libcrypto_done(&key->libcrypto);
    mh_wipe(key, sizeof *key);
    free(key);
}

size_t mh_aead_seal(mh_aead_key *key, mh_aead_job *jobs, size_t n) {
    size_t good = 0;
    for (size_t at = 0, some; at < n; at += some) {
        some = n - at < MH_WIDE ? n - at : MH_WIDE;
        if (key->wide && mh_wide_worth(key->wide, jobs + at, some)) {
            mh_wide_seal(key->wide, key->words, jobs + at, some);
            good += some;
        } else {
            pthread_mutex_lock(&key->seal_lock);
            good += mh_libcrypto_seal(&key->libcrypto, jobs + at, some);
            pthread_mutex_unlock(&key->seal_lock);
        }
    }
    return good;
}

size_t mh_aead_open(mh_aead_key *key, mh_aead_job *jobs, size_t n) {
    size_t good = 0;
    for (size_t at = 0, some; at < n; at += some) {
        some = n - at < MH_WIDE ? n - at : MH_WIDE;
        if (key->wide && mh_wide_worth(key->wide, jobs + at, some))
            good += mh_wide_open(key->wide, key->words, jobs + at, some);
        else
            good += mh_libcrypto_open(&key->libcrypto, jobs + at, some);
    }
    return good;
}
