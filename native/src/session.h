/*
 * session.h - one keypair of the paper: two transport keys, the send counter, the replay window, indices, birth.
 *
 * Ownership: counted references: the Python handle holds one, each keypair slot of a peer one. A slot's reference is
 * dropped by the control plane alone, after the session was taken out of slot and index table and every datapath
 * thread has passed a quiescent point. The last holder's free wipes the keys. Threads: every function may be called from any thread; sealing
 * and opening each take the session's lock of that direction.
 */
#ifndef MH_SESSION_H
#define MH_SESSION_H

#include "aead.h"

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

/* May this session still seal / open at now? (REJECT_AFTER_TIME, REJECT_AFTER_MESSAGES) */
bool mh_session_alive(const mh_session *s, uint64_t now_ns);

/* Seals n plaintexts in place under consecutive counters and writes each one's 16-byte data header in front:
 * jobs[i].data - MH_DATA_HEADER_LEN must be writable. Returns n, or 0 when the session is past its limits. */
size_t mh_session_seal(mh_session *s, mh_aead_job *jobs, size_t n, uint64_t now_ns);

/* Opens n in place (counter taken by the caller from the header), then checks the replay window: after it, ok means
 * authentic and new, else reasons[i] says why (MH_REASON_AUTH, _REPLAY, _SESSION_EXPIRED). Returns how many are ok. */
size_t mh_session_open(mh_session *s, mh_aead_job *jobs, uint8_t *reasons, size_t n, uint64_t now_ns);

/* Replay window by itself (RFC 6479 style, 8192 packets), for its tests. */
#define MH_REPLAY_WINDOW 8192
typedef struct {
    uint64_t greatest;
    bool any;
    uint64_t bits[(MH_REPLAY_WINDOW + 64) / 64];
} mh_replay;
void mh_replay_init(mh_replay *r);
bool mh_replay_accept(mh_replay *r, uint64_t counter); /* true and remembered, or false: seen or too old */

/* Receiver index -> session, for many readers and one writer at a time (the control plane, under its own lock).
 * Readers never lock; a removed session or an outgrown table may be freed only after a quiescent point, which the
 * writer's caller provides: mh_index_table_remove() returns, the caller waits, then calls mh_index_table_reclaim(). */
typedef struct mh_index_table mh_index_table;
mh_index_table *mh_index_table_new(void);
void mh_index_table_free(mh_index_table *t);
bool mh_index_table_add(mh_index_table *t, mh_session *s, void *owner); /* false: out of memory or index taken */
bool mh_index_table_remove(mh_index_table *t, const mh_session *s);
mh_session *mh_index_table_find(const mh_index_table *t, uint32_t index, void **owner);
void mh_index_table_reclaim(mh_index_table *t);

#endif
