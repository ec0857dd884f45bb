/*
 * mac1.h - does a handshake message come from somebody who knows our public key? (paper 5.3, 5.4.4)
 *
 * Checked here so that a flood of what is not even that costs one hash and no place in the control plane's ring.
 * Python checks it again: there it belongs to the protocol. Ownership: the datapath holds one for the key in force.
 * Threads: one at a time.
 */
#ifndef MH_MAC1_H
#define MH_MAC1_H

#include "mh.h"

typedef struct mh_mac1 mh_mac1;

/* key: HASH("mac1----" || our public key). NULL: no memory, or libcrypto refused. */
mh_mac1 *mh_mac1_new(const uint8_t key[MH_KEY_LEN]);
void mh_mac1_free(mh_mac1 *m); /* NULL is fine */

/* message: a whole initiation or response, which ends in mac1 and mac2; false for a shorter one. Constant time. */
bool mh_mac1_right(mh_mac1 *m, const uint8_t *message, size_t len);

#endif
