/*
 * backlog.h - super-packets that were read of the TUN and wait for their turn, so that a small packet need not.
 *
 * The TUN's own queue is one for all flows and knows no bounds but 500 entries of up to 64 KiB each, and TCP does not
 * see that it stands there (the device orphans what it queues). So the worker reads ahead: super-packets wait here,
 * in the order they came, while a packet of a flow of which nothing waits here goes at once. Within a flow the order
 * never changes. Ownership and threads: a worker's own; slots stay where they are until they are dropped.
 */
#ifndef MH_BACKLOG_H
#define MH_BACKLOG_H

#include "facts.h"
#include "offload.h"

#define MH_BACKLOG_SLOTS 64               /* 4 MiB, of which only what is used is ever touched */
#define MH_READ_HEADROOM 64               /* for the virtio header; the packet begins a cache line */
#define MH_READ_BYTES (MH_MAX_PACKET + 1) /* one read of the TUN */

/* One read of the TUN. */
typedef struct {
    mh_vnet_hdr header;
    uint32_t len;
    unsigned reason; /* why it does not parse; 0: facts hold */
    mh_facts facts;
    uint8_t *packet;
} mh_read;

typedef struct {
    mh_read slot[MH_BACKLOG_SLOTS];
    unsigned first, count;
    uint8_t *memory;
} mh_backlog;

bool mh_backlog_init(mh_backlog *b); /* false: no memory */
void mh_backlog_free(mh_backlog *b);

/* Where the next read goes, or NULL: full. It waits only once it is pushed. */
mh_read *mh_backlog_next(mh_backlog *b);
void mh_backlog_push(mh_backlog *b);

/* What has waited longest, or NULL; and done with it. */
const mh_read *mh_backlog_oldest(const mh_backlog *b);
void mh_backlog_drop(mh_backlog *b);

/* Must this one wait behind others of its flow? */
bool mh_backlog_has_flow(const mh_backlog *b, const mh_facts *f);

#endif
