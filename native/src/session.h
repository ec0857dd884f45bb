/*
 * session.h - one keypair of the paper: two transport keys, the send counter, the replay window, indices, birth.
 *
 * Ownership: counted references: the Python handle holds one, each keypair slot of a peer one. A slot's reference is
 * dropped by the control plane alone, after the session was taken out of slot and index table and every datapath
 * thread has passed a quiescent point. The last holder's free wipes the keys. Threads: every function may be called
 * from any thread; sealers take turns to claim counters and seal side by side, openers take turns. Files: kdf.h derives
 * the keys, replay.h is the window, index_table.h finds the session of a receiver index.
 */
#ifndef MH_SESSION_H
#define MH_SESSION_H

#include "aead.h"
#include "reasons.h"

typedef struct mh_session mh_session;

/* chaining_key is the handshake's final C; T_send/T_recv = KDF2(C, empty), swapped for the responder (paper 5.4.5).
 * Keys therefore exist in native memory only. NULL: out of memory or libcrypto refused. */
mh_session *mh_session_new(const uint8_t chaining_key[32], bool initiator, uint32_t local_index, uint32_t remote_index,
                           uint64_t birth_ns);
mh_session *mh_session_ref(mh_session *s); /* one more holder; returns s */
void mh_session_free(mh_session *s);       /* one holder less; the last one wipes and frees. NULL is fine */

uint32_t mh_session_local_index(const mh_session *s);
uint32_t mh_session_remote_index(const mh_session *s);
uint64_t mh_session_birth_ns(const mh_session *s);
bool mh_session_initiator(const mh_session *s);
uint64_t mh_session_sent(const mh_session *s); /* messages sealed so far = next counter */

/* May this session still seal / open at now? (REJECT_AFTER_TIME, REJECT_AFTER_MESSAGES; a now before birth counts as
 * birth, for a burst reads the clock before the control plane makes the session that it meets) */
bool mh_session_alive(const mh_session *s, uint64_t now_ns);

/* Seals n plaintexts in place under consecutive counters (written into the jobs) and writes each one's 16-byte data
 * header in front: jobs[i].data - MH_DATA_HEADER_LEN must be writable. Returns how many are ok: n, or 0 and nothing
 * sealed when the session is past its limits or n more messages would pass them. (Fewer than n, each then with
 * ok == false and its bytes wiped, only if libcrypto fails.) */
size_t mh_session_seal(mh_session *s, mh_aead_job *jobs, size_t n, uint64_t now_ns);

/* Opens n in place (counter taken by the caller from the header), then checks the replay window: after it, ok means
 * authentic and new, else reasons[i] says why (MH_REASON_AUTH, _REPLAY, _SESSION_EXPIRED) and no plaintext is left.
 * reasons[i] of an ok job is MH_REASON_NONE. Returns how many are ok. */
size_t mh_session_open(mh_session *s, mh_aead_job *jobs, uint8_t *reasons, size_t n, uint64_t now_ns);

/* The 16-byte header of a data message (paper 5.4.6): type 4, three zero bytes, receiver index, counter. */
#define MH_DATA_TYPE 4
static inline void mh_data_header_put(uint8_t *message, uint32_t receiver, uint64_t counter) {
    mh_put32le(message, MH_DATA_TYPE);
    mh_put32le(message + 4, receiver);
    mh_put64le(message + 8, counter);
}

/* Reads it. false: shorter than the least data message (a keepalive, 32 bytes), or of another type. */
static inline bool mh_data_header_get(const uint8_t *message, size_t len, uint32_t *receiver, uint64_t *counter) {
    if (len < MH_DATA_OVERHEAD || mh_get32le(message) != MH_DATA_TYPE)
        return false;
    *receiver = mh_get32le(message + 4);
    *counter = mh_get64le(message + 8);
    return true;
}

#endif
