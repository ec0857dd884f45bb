/* backlog.c - the ring of read packets. See backlog.h. */
#include "backlog.h"

#include <stdlib.h>

/* A bit more than a read, so that the slots' beginnings do not all fall into the same lines of the caches. */
#define SLOT_BYTES (MH_READ_HEADROOM + MH_READ_BYTES + 2048 + 64)

bool mh_backlog_init(mh_backlog *b) {
    memset(b, 0, sizeof *b);
    b->memory = aligned_alloc(64, (size_t)SLOT_BYTES * MH_BACKLOG_SLOTS);
    if (!b->memory) return false;
    for (size_t i = 0; i < MH_BACKLOG_SLOTS; i++) b->slot[i].packet = b->memory + i * SLOT_BYTES + MH_READ_HEADROOM;
    return true;
}

void mh_backlog_free(mh_backlog *b) { free(b->memory); }

mh_read *mh_backlog_next(mh_backlog *b) {
    return b->count == MH_BACKLOG_SLOTS ? NULL : &b->slot[(b->first + b->count) % MH_BACKLOG_SLOTS];
}

void mh_backlog_push(mh_backlog *b) { b->count++; }

const mh_read *mh_backlog_oldest(const mh_backlog *b) { return b->count ? &b->slot[b->first] : NULL; }

void mh_backlog_drop(mh_backlog *b) {
    b->count--;
    b->first = b->count ? (b->first + 1) % MH_BACKLOG_SLOTS : 0; /* empty: always the same slot, which is in the caches */
}

/* Fragments have ports only in the first one: among them, and to them, addresses and protocol are the flow. */
static bool same_flow(const mh_facts *a, const mh_facts *b) {
    return a->version == b->version && a->proto == b->proto && memcmp(a->dst, b->dst, 16) == 0 &&
           memcmp(a->src, b->src, 16) == 0 &&
           ((a->fragment | b->fragment) != MH_WHOLE || (a->sport == b->sport && a->dport == b->dport));
}

bool mh_backlog_has_flow(const mh_backlog *b, const mh_facts *f) {
    for (unsigned i = 0; i < b->count; i++)
        if (same_flow(&b->slot[(b->first + i) % MH_BACKLOG_SLOTS].facts, f)) return true;
    return false;
}
