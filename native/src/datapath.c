/*
 * datapath.c - making and ending a datapath, and publishing to its workers.
 *
 * A publisher: store the new pointer -> wait while each worker's epoch stays the odd number it was -> free the old. Both
 * sides use sequentially consistent atomics: either a worker sees the new pointer, or the publisher sees the odd epoch.
 */
#include "datapath.h"

#include <errno.h>
#include <stdlib.h>

#include "worker.h"

#define RING_SLOTS 512
#define TUN_F_CSUM 0x01u
#define TUN_F_TSO4 0x02u
#define TUN_F_TSO6 0x04u
#define TUN_F_USO4 0x20u
#define TUN_F_USO6 0x40u

void mh_quiesce(mh_datapath *d) {
    const struct timespec pause = {.tv_nsec = 20000};
    for (unsigned i = 0; i < d->n_workers; i++) {
        _Atomic uint64_t *epoch = &d->worker[i]->epoch;
        const uint64_t seen = atomic_load(epoch);
        while ((seen & 1) && atomic_load(epoch) == seen) nanosleep(&pause, NULL);
    }
}

void mh_datapath_wake(mh_datapath *d) {
    for (unsigned i = 0; i < d->n_workers; i++) mh_worker_wake(d->worker[i]);
}

void mh_push(mh_datapath *d, enum mh_event_kind kind, mh_peer *p) {
    mh_event e;
    memset(&e, 0, offsetof(mh_event, data));
    e.kind = kind;
    e.peer = p->id;
    if (mh_ring_push(d->ring, &e)) return;
    pthread_mutex_lock(&d->registry);
    if (!p->unsent_events) {
        p->next_unsent = d->unsent_peers;
        d->unsent_peers = p;
    }
    p->unsent_events |= 1u << kind;
    pthread_mutex_unlock(&d->registry);
    atomic_store(&d->unsent, true);
    mh_ring_wake(d->ring); /* the reader may have emptied the ring since, and be asleep */
}

mh_datapath *mh_datapath_new(const int *tun_fds, unsigned n, bool vnet_hdr, unsigned tun_offloads, unsigned mtu, int *error) {
    *error = n < 1 || n > MH_WORKERS ? EINVAL : ENOMEM;
    mh_datapath *d = *error == EINVAL ? NULL : calloc(1, sizeof *d);
    if (!d) return NULL;
    pthread_mutex_init(&d->control, NULL); /* default mutexes: cannot fail on Linux */
    pthread_mutex_init(&d->registry, NULL);
    d->tun_offloads = vnet_hdr && (tun_offloads & TUN_F_CSUM) ? tun_offloads : 0;
    if (d->tun_offloads & TUN_F_TSO4) d->join_kinds |= MH_JOIN_TCP4;
    if (d->tun_offloads & TUN_F_TSO6) d->join_kinds |= MH_JOIN_TCP6;
    if (d->tun_offloads & TUN_F_USO4) d->join_kinds |= MH_JOIN_UDP4;
    if (d->tun_offloads & TUN_F_USO6) d->join_kinds |= MH_JOIN_UDP6;
    atomic_init(&d->mtu, mtu);
    atomic_init(&d->probe_ident, -1);
    d->indices = mh_index_table_new();
    d->ring = mh_ring_new(RING_SLOTS);
    if (n > 1) d->lanes = calloc(MH_LANES, sizeof *d->lanes);
    bool ok = d->indices && d->ring && (n == 1 || d->lanes);
    for (unsigned i = 0; i < n && ok; i++) {
        errno = ENOMEM;
        ok = (d->worker[i] = mh_worker_new(d, i, tun_fds[i], vnet_hdr)) != NULL;
        if (ok)
            d->n_workers++;
        else
            *error = errno;
    }
    if (ok) {
        *error = 0;
        return d;
    }
    mh_datapath_free(d);
    return NULL;
}

static void free_snapshot(mh_snapshot *s) {
    if (!s) return;
    mh_program_free(s->program);
    mh_allowedips_free(s->routes);
    free(s);
}

void mh_datapath_free(mh_datapath *d) {
    if (!d) return;
    mh_datapath_stop(d);
    free_snapshot(atomic_load(&d->snapshot));
    free(atomic_load(&d->sockets));
    mh_guard_free(atomic_load(&d->guard));
    if (d->indices) mh_index_table_free(d->indices);
    for (size_t i = 0; i < d->n_peers; i++) mh_peer_free(d->peers[i]);
    for (size_t i = 0; i < d->n_removed; i++) mh_peer_free(d->removed[i]);
    free(d->peers);
    free(d->removed);
    if (d->ring) mh_ring_free(d->ring);
    for (unsigned i = 0; i < d->n_workers; i++) mh_worker_free(d->worker[i]);
    free(d->lanes);
    pthread_mutex_destroy(&d->control);
    pthread_mutex_destroy(&d->registry);
    free(d);
}

int mh_datapath_start(mh_datapath *d) {
    pthread_mutex_lock(&d->control);
    int error = d->running ? EBUSY : 0;
    if (!error) {
        unsigned started = 0;
        atomic_store(&d->stop, false);
        while (started < d->n_workers && (error = mh_worker_start(d->worker[started])) == 0) started++;
        d->running = !error;
        if (error) {
            atomic_store(&d->stop, true);
            while (started > 0) mh_worker_join(d->worker[--started]);
        }
    }
    pthread_mutex_unlock(&d->control);
    return error;
}

void mh_datapath_stop(mh_datapath *d) {
    pthread_mutex_lock(&d->control);
    if (d->running) {
        atomic_store(&d->stop, true);
        for (unsigned i = 0; i < d->n_workers; i++) mh_worker_join(d->worker[i]);
        d->running = false;
    }
    pthread_mutex_unlock(&d->control);
}

int mh_datapath_turn(mh_datapath *d) {
    pthread_mutex_lock(&d->control);
    int error = d->running ? EBUSY : 0;
    for (unsigned i = 0; i < d->n_workers && !error; i++) error = mh_worker_turn(d->worker[i]);
    pthread_mutex_unlock(&d->control);
    return error;
}

/* Every worker looks at its sockets of u, or none does. */
static int watch_sockets(const mh_datapath *d, const mh_udp *u) {
    int error = 0;
    for (unsigned i = 0; i < d->n_workers && !error; i++) {
        error = mh_worker_watch(d->worker[i], u[i].fd4, MH_UDP4);
        if (!error) error = mh_worker_watch(d->worker[i], u[i].fd6, MH_UDP6);
    }
    return error;
}

/* What u has and `but` has not. */
static void watch_no_longer(const mh_datapath *d, const mh_udp *u, const mh_udp *but) {
    for (unsigned i = 0; i < d->n_workers && u; i++) {
        if (!but || u[i].fd4 != but[i].fd4) mh_worker_watch_no_longer(d->worker[i], u[i].fd4);
        if (!but || u[i].fd6 != but[i].fd6) mh_worker_watch_no_longer(d->worker[i], u[i].fd6);
    }
}

int mh_datapath_set_sockets(mh_datapath *d, const int *udp4, const int *udp6, bool offload) {
    mh_udp *u = calloc(d->n_workers, sizeof *u);
    if (!u) return ENOMEM;
    int error = 0;
    for (unsigned i = 0; i < d->n_workers && !error; i++) error = mh_udp_init(&u[i], udp4[i], udp6[i], offload);
    pthread_mutex_lock(&d->control);
    if (!error && (error = watch_sockets(d, u)) != 0) watch_no_longer(d, u, atomic_load(&d->sockets));
    if (error) {
        free(u);
    } else {
        mh_udp *old = atomic_exchange(&d->sockets, u);
        mh_datapath_wake(d);
        mh_quiesce(d);
        watch_no_longer(d, old, u);
        free(old);
    }
    pthread_mutex_unlock(&d->control);
    return error;
}

void mh_datapath_set_mtu(mh_datapath *d, unsigned mtu) { atomic_store(&d->mtu, mtu); }

int mh_datapath_set_public_key(mh_datapath *d, const uint8_t *key) {
    mh_guard *g = key ? mh_guard_new(key) : NULL;
    if (key && !g) return ENOMEM;
    pthread_mutex_lock(&d->control);
    mh_guard *old = atomic_exchange(&d->guard, g);
    mh_quiesce(d);
    mh_guard_free(old);
    pthread_mutex_unlock(&d->control);
    return 0;
}

static size_t read_counts(const mh_datapath *d, const mh_snapshot *s, uint64_t *packets, uint64_t *bytes, size_t room) {
    if (!s) return 0;
    for (size_t i = 0; i < s->rules && i < room; i++) {
        packets[i] = bytes[i] = 0;
        for (size_t at = i; at < (size_t)s->rules * d->n_workers; at += s->rules) {
            packets[i] += atomic_load_explicit(&s->counts[at].packets, memory_order_relaxed);
            bytes[i] += atomic_load_explicit(&s->counts[at].bytes, memory_order_relaxed);
        }
    }
    return s->rules;
}

/* NULL and errno: not a program, a bad prefix, no memory. */
static mh_snapshot *new_snapshot(const mh_datapath *d, const uint8_t *code, size_t len, const mh_prefix *routes, size_t n) {
    mh_program *program = code ? mh_program_load(code, len) : NULL;
    mh_allowedips *table = mh_allowedips_new(routes, n);
    const uint16_t rules = program ? mh_program_rules(program) : 0;
    mh_snapshot *s = calloc(1, sizeof *s + (size_t)rules * d->n_workers * sizeof s->counts[0]);
    errno = s ? EINVAL : ENOMEM;
    if (!s || !table || (code && !program)) {
        free(s);
        mh_program_free(program);
        mh_allowedips_free(table);
        return NULL;
    }
    s->program = program;
    s->routes = table;
    s->rules = rules;
    return s;
}

/* Removed peers that the routes in force no longer lead to. */
static void free_removed(mh_datapath *d, const mh_prefix *routes, size_t n) {
    if (!d->n_removed) return;
    for (size_t i = 0; i < d->n_removed; i++) d->removed[i]->routed = false;
    for (size_t i = 0; i < n; i++) ((mh_peer *)routes[i].owner)->routed = true;
    pthread_mutex_lock(&d->registry);
    for (mh_peer **at = &d->unsent_peers; *at;) {
        if (atomic_load(&(*at)->removed))
            *at = (*at)->next_unsent;
        else
            at = &(*at)->next_unsent;
    }
    pthread_mutex_unlock(&d->registry);
    size_t kept = 0;
    for (size_t i = 0; i < d->n_removed; i++) {
        if (d->removed[i]->routed)
            d->removed[kept++] = d->removed[i];
        else
            mh_peer_free(d->removed[i]);
    }
    d->n_removed = kept;
}

/* Why a staged packet may no longer go to p; NONE: it may. */
static unsigned rejudge(const mh_snapshot *s, const mh_peer *p, const mh_staged *m) {
    mh_facts f;
    if (m->own) return MH_REASON_NONE;
    const unsigned reason = (unsigned)mh_parse(m->message + MH_DATA_HEADER_LEN, m->padded, &f);
    if (reason) return reason;
    f.direction = MH_OUT;
    f.iface_out = MH_TUNNEL;
    const mh_verdict v = f.fragment == MH_LATER ? mh_judge_later(s->program, &f) : mh_judge(s->program, &f);
    if (!v.accept) return v.reason;
    return mh_route(s, &f) == p ? MH_REASON_NONE : MH_REASON_NO_PEER;
}

/* Staged packets have only the former policy's verdict: each gets the new one's, or goes. */
static void rejudge_staged(mh_datapath *d, const mh_snapshot *s) {
    pthread_mutex_lock(&d->registry);
    for (size_t i = 0; i < d->n_peers; i++) {
        mh_peer *p = d->peers[i];
        pthread_mutex_lock(&p->lock);
        for (unsigned n = p->staged_count; n > 0; n--) {
            mh_staged m;
            mh_peer_unstage(p, &m);
            const unsigned reason = rejudge(s, p, &m);
            if (reason == MH_REASON_NONE) {
                mh_peer_restage(p, &m);
            } else {
                mh_drop(&d->drops, reason, 1);
                free(m.message);
            }
        }
        pthread_mutex_unlock(&p->lock);
    }
    pthread_mutex_unlock(&d->registry);
}

int mh_datapath_publish(mh_datapath *d, const uint8_t *code, size_t len, const mh_prefix *routes, size_t n,
                        uint64_t *packets, uint64_t *bytes, size_t room) {
    mh_snapshot *s = new_snapshot(d, code, len, routes, n);
    if (!s) return -errno;
    pthread_mutex_lock(&d->control);
    mh_snapshot *old = atomic_exchange(&d->snapshot, s);
    mh_quiesce(d);
    const int rules = (int)read_counts(d, old, packets, bytes, room);
    free_snapshot(old);
    rejudge_staged(d, s);
    free_removed(d, routes, n);
    pthread_mutex_unlock(&d->control);
    return rules;
}

size_t mh_datapath_verdicts(mh_datapath *d, uint64_t *packets, uint64_t *bytes, size_t room) {
    pthread_mutex_lock(&d->control);
    const size_t n = read_counts(d, atomic_load(&d->snapshot), packets, bytes, room);
    pthread_mutex_unlock(&d->control);
    return n;
}

size_t mh_datapath_drops(const mh_datapath *d, uint64_t *by_reason, size_t room) {
    for (size_t i = 0; i < MH_REASON_COUNT && i < room; i++)
        by_reason[i] = atomic_load_explicit(&d->drops.by_reason[i], memory_order_relaxed);
    return MH_REASON_COUNT;
}

void mh_datapath_statistics(const mh_datapath *d, mh_statistics *out) {
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < d->n_workers; i++) {
#define X(name) out->name += atomic_load_explicit(&d->worker[i]->work.name, memory_order_relaxed);
        MH_WORK(X)
#undef X
    }
}

size_t mh_datapath_turns(const mh_datapath *d, uint64_t *by_worker, size_t room) {
    for (unsigned i = 0; i < d->n_workers && i < room; i++)
        by_worker[i] = atomic_load_explicit(&d->worker[i]->work.turns, memory_order_relaxed);
    return d->n_workers;
}

void mh_datapath_offloads(mh_datapath *d, mh_offloads *out) {
    pthread_mutex_lock(&d->control);
    const mh_udp *u = atomic_load(&d->sockets);
    *out = (mh_offloads){
        .vnet_hdr = d->worker[0]->tun.vnet_hdr,
        .tso4 = d->join_kinds & MH_JOIN_TCP4,
        .tso6 = d->join_kinds & MH_JOIN_TCP6,
        .uso4 = d->join_kinds & MH_JOIN_UDP4,
        .uso6 = d->join_kinds & MH_JOIN_UDP6,
        .udp_segment = u && atomic_load(&u->segment),
        .udp_gro = u && u->gro,
    };
    pthread_mutex_unlock(&d->control);
}
