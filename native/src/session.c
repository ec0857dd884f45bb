/*
 * session.c - one keypair: seal under consecutive counters, open and remember.
 *
 * Order when opening (paper 5.4.6): limits, then the tag, then the replay window: only an authentic packet may move it.
 */
#include "session.h"

#include "kdf.h"
#include "replay.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct mh_session {
    atomic_uint holders;
    bool initiator;
    uint32_t local_index, remote_index;
    uint64_t birth_ns;

    pthread_mutex_t seal_lock;
    mh_aead_key *send_key;
    _Atomic uint64_t sent; /* next counter; written under seal_lock, read by anyone */

    pthread_mutex_t open_lock;
    mh_aead_key *receive_key;
    mh_replay window;
};

mh_session *mh_session_new(const uint8_t chaining_key[32], bool initiator, uint32_t local_index, uint32_t remote_index,
                           uint64_t birth_ns) {
    uint8_t first[MH_KEY_LEN], second[MH_KEY_LEN]; /* initiator -> responder, responder -> initiator */
    mh_session *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    if (mh_kdf2(chaining_key, NULL, 0, first, second)) {
        s->send_key = mh_aead_key_new(initiator ? first : second);
        s->receive_key = mh_aead_key_new(initiator ? second : first);
    }
    mh_wipe(first, sizeof first);
    mh_wipe(second, sizeof second);
    if (!s->send_key || !s->receive_key) {
        mh_aead_key_free(s->send_key);
        mh_aead_key_free(s->receive_key);
        free(s);
        return NULL;
    }
    atomic_init(&s->holders, 1);
    atomic_init(&s->sent, 0);
    s->initiator = initiator;
    s->local_index = local_index;
    s->remote_index = remote_index;
    s->birth_ns = birth_ns;
    pthread_mutex_init(&s->seal_lock, NULL); /* a default mutex: cannot fail on Linux */
    pthread_mutex_init(&s->open_lock, NULL);
    mh_replay_init(&s->window);
    return s;
}

mh_session *mh_session_ref(mh_session *s) {
    atomic_fetch_add(&s->holders, 1);
    return s;
}

void mh_session_free(mh_session *s) {
    if (!s || atomic_fetch_sub(&s->holders, 1) != 1)
        return;
    mh_aead_key_free(s->send_key);
    mh_aead_key_free(s->receive_key);
    pthread_mutex_destroy(&s->seal_lock);
    pthread_mutex_destroy(&s->open_lock);
    mh_wipe(s, sizeof *s);
    free(s);
}

uint32_t mh_session_local_index(const mh_session *s) { return s->local_index; }
uint32_t mh_session_remote_index(const mh_session *s) { return s->remote_index; }
uint64_t mh_session_birth_ns(const mh_session *s) { return s->birth_ns; }
bool mh_session_initiator(const mh_session *s) { return s->initiator; }
uint64_t mh_session_sent(const mh_session *s) { return atomic_load_explicit(&s->sent, memory_order_relaxed); }

static bool too_old(const mh_session *s, uint64_t now_ns) {
    return now_ns > s->birth_ns && now_ns - s->birth_ns >= MH_REJECT_AFTER_TIME_NS;
}

bool mh_session_alive(const mh_session *s, uint64_t now_ns) {
    return !too_old(s, now_ns) && mh_session_sent(s) < MH_REJECT_AFTER_MESSAGES;
}

size_t mh_session_seal(mh_session *s, mh_aead_job *jobs, size_t n, uint64_t now_ns) {
    bool claimed = false;
    pthread_mutex_lock(&s->seal_lock);
    uint64_t counter = mh_session_sent(s);
    if (!too_old(s, now_ns) && n <= MH_REJECT_AFTER_MESSAGES - counter) {
        for (size_t i = 0; i < n; i++) {
            jobs[i].counter = counter + i;
            mh_data_header_put(jobs[i].data - MH_DATA_HEADER_LEN, s->remote_index, counter + i);
        }
        /* Counters are spent before they are used: no failure may bring one back. */
        atomic_store_explicit(&s->sent, counter + n, memory_order_relaxed);
        claimed = true;
    }
    pthread_mutex_unlock(&s->seal_lock);
    if (claimed) return mh_aead_seal(s->send_key, jobs, n);
    for (size_t i = 0; i < n; i++)
        jobs[i].ok = false;
    return 0;
}

/* The verdict on one job that the AEAD has opened. */
static uint8_t judge(mh_session *s, const mh_aead_job *job) {
    if (!job->ok)
        return MH_REASON_AUTH;
    if (job->counter >= MH_REJECT_AFTER_MESSAGES)
        return MH_REASON_SESSION_EXPIRED;
    return mh_replay_accept(&s->window, job->counter) ? MH_REASON_NONE : MH_REASON_REPLAY;
}

size_t mh_session_open(mh_session *s, mh_aead_job *jobs, uint8_t *reasons, size_t n, uint64_t now_ns) {
    size_t good = 0;
    if (too_old(s, now_ns)) {
        for (size_t i = 0; i < n; i++) {
            jobs[i].ok = false;
            reasons[i] = MH_REASON_SESSION_EXPIRED;
        }
        return 0;
    }
    pthread_mutex_lock(&s->open_lock);
    mh_aead_open(s->receive_key, jobs, n);
    for (size_t i = 0; i < n; i++) {
        reasons[i] = judge(s, &jobs[i]);
        if (reasons[i] == MH_REASON_NONE) {
            good++;
        } else if (jobs[i].ok) {
            jobs[i].ok = false;
            mh_wipe(jobs[i].data, jobs[i].len);
        }
    }
    pthread_mutex_unlock(&s->open_lock);
    return good;
}
