/*
 * guard.h - which handshake messages are worth a place in the ring: mac1, and under load mac2 with cookie replies
 * (paper 5.3, 5.4.4, 5.4.7). The receiving side; adding MACs to our own messages is Python's.
 *
 * Ownership: one guard for each public key of ours; its secret, from which cookies are made, is drawn here and
 * lives COOKIE_SECRET_MAX_AGE. Threads: any, they take turns.
 */
#ifndef MH_GUARD_H
#define MH_GUARD_H

#include "endpoint.h"
#include "mh.h"

#define MH_INITIATION_LEN 148
#define MH_RESPONSE_LEN 92
#define MH_COOKIE_LEN 64

typedef struct mh_guard mh_guard;
mh_guard *mh_guard_new(const uint8_t public_key[MH_KEY_LEN]); /* NULL: no memory, or libcrypto refused */
void mh_guard_free(mh_guard *g);                              /* NULL is fine */

/* message is a whole initiation or response: at least 32 bytes, the last of which are mac1 and mac2. */
bool mh_guard_mac1(mh_guard *g, const uint8_t *message, size_t len);
bool mh_guard_mac2(mh_guard *g, const uint8_t *message, size_t len, const mh_endpoint *from, uint64_t now_ns);

/* The cookie reply to a message whose mac1 is right. false: no randomness or libcrypto refused, and nothing to send. */
bool mh_guard_reply(mh_guard *g, const uint8_t *message, size_t len, const mh_endpoint *from, uint64_t now_ns,
                    uint8_t reply[MH_COOKIE_LEN]);

#endif
