/*
 * worker.h - the inside of the datapath: one device, its worker threads, and what they share. Only worker.c, datapath.c,
 * control.c, outward.c and inward.c include it.
 *
 * Each worker has a queue of the TUN and a socket of each family. The kernel gives a flow's packets to one queue; a
 * peer's messages come by one socket (engine/tunnel/sockets.py); so whatever belongs together meets one worker, and
 * stays in order. What one worker learns of a flow's queue, the others use when they write into it (`lanes`).
 * Ownership and threads: a worker alone touches its buffers, burst and fragment table. It reads `snapshot` and
 * `sockets` once a turn, between an odd and an even epoch; the control plane swaps a pointer, waits until every
 * worker has left its turn (quiesce), and only then frees what was replaced. Every control call holds `control`.
 * Locks are taken in this order: control, registry, a peer's lock, then a session's.
 */
#ifndef MH_WORKER_H
#define MH_WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "allowedips.h"
#include "backlog.h"
#include "bucket.h"
#include "counters.h"
#include "guard.h"
#include "icmp.h"
#include "index_table.h"
#include "peer.h"
#include "ring.h"
#include "session.h"
#include "tunio.h"
#include "udp.h"
#include "verdict.h"

#define MH_BATCH 256                         /* packets of a burst or a batch */
#define MH_BUDGET 64                         /* packets a direction a turn, about: so long the other one waits */
#define MH_WIRE_BYTES (192 * 1024)           /* data messages of a burst, end to end */

#define MH_WORKERS 16
#define MH_LANES 65536 /* flows, by hash, whose queue is remembered */

/* Packets and bytes a rule decided. Written by one worker alone. */
typedef struct {
    _Atomic uint64_t packets, bytes;
} mh_rule_count;

/* What a packet is judged and routed by: one whole, replaced as one whole. */
typedef struct {
    mh_program *program; /* NULL: no policy, everything is dropped */
    mh_allowedips *routes;
    uint16_t rules;
    mh_rule_count counts[]; /* `rules` for each worker */
} mh_snapshot;

/* The messages for one session, from the last flush on. Runs of equal TOS and size go out with one call each. */
typedef struct {
    uint32_t offset, total, stride;
    uint16_t first, count;
    uint8_t tos;
    bool closed; /* ended by a shorter message */
} mh_run;

typedef struct {
    mh_peer *peer;
    mh_session *session;
    size_t n, runs;
    uint32_t used;
    mh_aead_job jobs[MH_BATCH];
    mh_run run[MH_BATCH];
} mh_burst;

/* The data messages of an inward batch, from the last open on. */
typedef struct {
    mh_session *session;
    mh_peer *peer;
    uint32_t index;
    uint16_t datagram;
} mh_arrival;

typedef struct {
    size_t n, datagrams;
    mh_aead_job jobs[MH_BATCH];
    uint8_t reasons[MH_BATCH];
    mh_arrival arrival[MH_BATCH];
    mh_datagram datagram[MH_BATCH];
} mh_batch;

/* What was decided of a packet, which holds within the turn for every one alike: mostly the next one of its flow. */
typedef struct {
    mh_facts facts;
    mh_verdict verdict;
    mh_peer *peer; /* by allowed IPs, of its destination (outward) or its source (inward); NULL: nobody's */
    bool known;
} mh_decision;

typedef struct mh_datapath mh_datapath;

typedef struct {
    mh_datapath *d;
    unsigned number;
    mh_tun tun; /* its queue */
    int wake_fd, epoll_fd;
    pthread_t thread;
    _Atomic uint64_t epoch; /* odd: in a turn */
    mh_fragments *fragments;
    mh_bucket answers, cookies;
    mh_work work;
    mh_udp_inbox *inbox;
    mh_backlog backlog;
    uint8_t *wire, *scratch;
    mh_burst burst;
    mh_batch batch;
    mh_join join;
    uint64_t loaded_until_ns; /* handshake messages must bring a cookie */
    /* of this turn */
    mh_snapshot *snapshot;
    mh_udp *sockets;
    uint64_t now_ns;
    mh_decision last[2]; /* outward, inward */
    bool more; /* a direction has used up its budget */
    bool full; /* a send buffer was, and has been waited for */
} mh_worker;

struct mh_datapath {
    unsigned join_kinds; /* MH_JOIN_* the device takes */
    unsigned tun_offloads;
    atomic_uint mtu;
    bool running;
    atomic_bool stop;

    _Atomic(mh_snapshot *) snapshot;
    _Atomic(mh_udp *) sockets; /* one for each worker; NULL: none yet */
    _Atomic(mh_guard *) guard; /* NULL: every handshake message goes up to Python */
    mh_index_table *indices;
    mh_ring *ring;
    mh_drops drops;
    atomic_int probe_ident; /* -1: none */
    atomic_bool unsent;     /* some peer keeps an event that the ring had no room for, or the worker has stopped */
    atomic_int stopped;     /* errno for which the worker ended by itself, until it was told */
    mh_peer *unsent_peers;  /* those peers, under registry */
    unsigned n_workers;
    mh_worker *worker[MH_WORKERS];
    _Atomic uint8_t *lanes; /* of each flow's hash: the queue it was last read of, and 1; NULL: there is but one */

    pthread_mutex_t control;
    pthread_mutex_t registry; /* peers, n_peers, unsent_peers and what they keep */
    mh_peer **peers;
    size_t n_peers, room_peers;
    mh_peer **removed; /* waiting for a publish that leads no longer to them */
    size_t n_removed;
    uint32_t last_id;
};

/* A worker's life. NULL and errno: a bad descriptor, no memory. Its thread runs from start() (0 or errno) to join(). */
mh_worker *mh_worker_new(mh_datapath *d, unsigned number, int tun_fd, bool vnet_hdr);
void mh_worker_free(mh_worker *w);
int mh_worker_start(mh_worker *w);
void mh_worker_join(mh_worker *w);
void mh_worker_wake(mh_worker *w);
int mh_worker_turn(mh_worker *w); /* both directions once, in the caller's thread */

/* Wait for this descriptor, too (-1, or watched already: fine); and no longer. */
enum { MH_WAKE = 1, MH_TUN = 2, MH_UDP4 = 4, MH_UDP6 = 8 };
int mh_worker_watch(const mh_worker *w, int fd, unsigned what);
void mh_worker_watch_no_longer(const mh_worker *w, int fd);

/* The place of a packet's flow in `lanes`, the same for both directions; of fragments, by the addresses. */
uint16_t mh_lane(const mh_facts *f);

/* Each runs one direction's turn (inward: one socket's, -1: none). 0, or the errno for which the TUN is gone. */
int mh_outward(mh_worker *w);
int mh_inward(mh_worker *w, int fd);

/* The path behind the socket, for a batch laid into any buffer: what the fuzz target calls. */
int mh_inward_datagram(mh_worker *w, const mh_datagram *g);
int mh_inward_finish(mh_worker *w);

/* The peer that a packet's destination belongs to, or NULL. */
mh_peer *mh_route(const mh_snapshot *s, const mh_facts *f);

/* What was decided of the last packet, if this one of the same direction and turn is alike; else NULL. */
static inline const mh_decision *mh_recall(const mh_worker *w, const mh_facts *f) {
    const mh_decision *d = &w->last[f->direction == MH_IN];
    return d->known && mh_facts_alike(&d->facts, f) ? d : NULL;
}

/* Judges, unless it is recalled, remembers the verdict with the peer, and counts it under its rule; a super-packet is
 * `packets` on the wire. */
mh_verdict mh_worker_judge(mh_worker *w, const mh_facts *f, const mh_decision *recalled, mh_peer *peer, uint32_t packets);

/* Padding of a plaintext to 16 bytes, never beyond the MTU (paper 5.4.6; as kernel WireGuard for packets over it). */
uint32_t mh_padded(uint32_t len, uint32_t mtu);

/* Sends what was staged, under the current session. Caller holds the peer's lock; any thread. true: push TIMERS. */
bool mh_flush_staged(mh_datapath *d, mh_udp *sockets, mh_peer *p, uint64_t now_ns, uint32_t *calls);

/* Waits until no worker is in the turn it is in now. Never under a peer's lock: a worker may want it to go on. */
void mh_quiesce(mh_datapath *d);

/* An event about a peer; one that the ring has no room for is kept with the peer. Not under the peer's lock. */
void mh_push(mh_datapath *d, enum mh_event_kind kind, mh_peer *p);

#endif
