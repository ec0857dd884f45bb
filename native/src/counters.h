/*
 * counters.h - what was dropped and why, and how much work a packet costs.
 *
 * Read from any thread at any time. Drops are rare and counted from any thread; the work counters belong to one
 * datapath thread each, which alone writes them: a plain load and store, made atomic only for the readers.
 */
#ifndef MH_COUNTERS_H
#define MH_COUNTERS_H

#include <stdatomic.h>

#include "mh.h"
#include "reasons.h"

typedef struct {
    _Atomic uint64_t by_reason[MH_REASON_COUNT];
} mh_drops;

static inline void mh_drop(mh_drops *d, unsigned reason, uint64_t packets) {
    atomic_fetch_add_explicit(&d->by_reason[reason], packets, memory_order_relaxed);
}

/* X(name): packets and bytes are those of the inner packets, as on the wire */
#define MH_WORK(X)                                                                                            \
    X(tun_reads) X(tun_writes) X(udp_sends) X(udp_receives)                                                   \
    X(packets_out) X(bytes_out) X(packets_in) X(bytes_in) X(turns)

typedef struct {
#define X(name) _Atomic uint64_t name;
    MH_WORK(X)
#undef X
} mh_work;

static inline void mh_count(_Atomic uint64_t *c, uint64_t n) {
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}


#endif
