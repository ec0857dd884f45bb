/*
 * bucket.h - a token bucket: so many a second, so many at once. It belongs to one thread.
 */
#ifndef MH_BUCKET_H
#define MH_BUCKET_H

#include "mh.h"

typedef struct {
    uint64_t credit_ns, last_ns;
} mh_bucket;

/* Takes one, if there is one; a new bucket (zeros) is full. per_second and burst are constants of the caller's. */
static inline bool mh_bucket_take(mh_bucket *b, uint64_t now_ns, uint32_t per_second, uint32_t burst) {
    const uint64_t price = UINT64_C(1000000000) / per_second, most = price * burst;
    const uint64_t earned = now_ns - b->last_ns;
    b->credit_ns = earned >= most || b->credit_ns + earned >= most ? most : b->credit_ns + earned;
    b->last_ns = now_ns;
    if (b->credit_ns < price) return false;
    b->credit_ns -= price;
    return true;
}

#endif
