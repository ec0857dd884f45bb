/*
 * datapath.c - the worker thread, and publishing to it.
 *
 * The thread: epoch odd -> load snapshot and sockets -> outward, inward -> epoch even -> epoll_wait, without a timeout,
 * unless a direction has used up its turn.
 * A publisher: store the new pointer -> wait while the epoch stays the odd number it was -> free the old. Both sides use
 * sequentially consistent atomics: either the worker sees the new pointer, or the publisher sees the odd epoch.
 */
#include "datapath.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "worker.h"

#define RING_SLOTS 512
#define TUN_F_CSUM 0x01u
#define TUN_F_TSO4 0x02u
#define TUN_F_TSO6 0x04u
#define TUN_F_USO4 0x20u
#define TUN_F_USO6 0x40u

void mh_quiesce(mh_datapath *d) {
    const uint64_t seen = atomic_load(&d->worker.epoch);
    const struct timespec pause = {.tv_nsec = 20000};
    while ((seen & 1) && atomic_load(&d->worker.epoch) == seen) nanosleep(&pause, NULL);
}

void mh_datapath_wake(mh_datapath *d) {
    const uint64_t one = 1;
    ssize_t ignored = write(d->wake_fd, &one, sizeof one); /* full means it is awake already */
    (void)ignored;
}

mh_verdict mh_worker_judge(mh_worker *w, const mh_facts *f, const mh_decision *recalled, mh_peer *peer, uint32_t packets) {
    mh_snapshot *s = w->snapshot;
    const mh_verdict v = recalled ? recalled->verdict : mh_filter(s ? s->program : NULL, w->fragments, f, w->now_ns);
    if (!recalled && f->fragment == MH_WHOLE)
        w->last[f->direction == MH_IN] = (mh_decision){.facts = *f, .verdict = v, .peer = peer, .known = true};
    if (s && v.rule < s->rules) {
        mh_count(&s->counts[v.rule].packets, packets);
        mh_count(&s->counts[v.rule].bytes, f->total_len);
    }
    return v;
}

void mh_push(mh_datapath *d, enum mh_event_kind kind, mh_peer *p) {
    mh_event e;
    memset(&e, 0, offsetof(mh_event, data));
    e.kind = kind;
    e.peer = p->id;
    if (mh_ring_push(d->ring, &e)) return;
    pthread_mutex_lock(&d->registry);
    p->unsent_events |= 1u << kind;
    mh_list(&d->unsent_peers, p, MH_LIST_UNSENT);
    pthread_mutex_unlock(&d->registry);
    atomic_store(&d->unsent, true);
    mh_ring_wake(d->ring); /* the reader may have emptied the ring since, and be asleep */
}

/* What the thread waits for. */
enum { WAKE = 1, TUN = 2, UDP4 = 4, UDP6 = 8, PACKETS = TUN | UDP4 | UDP6 };

/* Both directions once, as far as there may be something. 0, or the errno for which the TUN is gone. */
static int turn(mh_worker *w, unsigned ready) {
    mh_datapath *d = w->d;
    atomic_fetch_add(&w->epoch, 1);
    w->snapshot = atomic_load(&d->snapshot);
    w->sockets = atomic_load(&d->sockets);
    w->now_ns = mh_now_ns();
    mh_count(&w->work.turns, 1);
    int gone = 0;
    w->more = w->last[0].known = w->last[1].known = false;
    if (ready & TUN) gone = mh_outward(w);
    if (ready & UDP4 && w->sockets && !gone) gone = mh_inward(w, w->sockets->fd4);
    if (ready & UDP6 && w->sockets && !gone) gone = mh_inward(w, w->sockets->fd6);
    atomic_fetch_add(&w->epoch, 1);
    return gone;
}

/* 0 or errno; an fd of -1 is fine, and so is one that is watched already. */
static int watch(const mh_datapath *d, int fd, unsigned what) {
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = what};
    return fd < 0 || epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0 || errno == EEXIST ? 0 : errno;
}

static void watch_no_longer(const mh_datapath *d, int fd) {
    if (fd >= 0) (void)epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* a closed one has gone by itself */
}

static void *run(void *argument) {
    mh_worker *w = argument;
    mh_datapath *d = w->d;
    struct epoll_event events[4];
    int gone = turn(w, PACKETS);
    while (!gone && !atomic_load(&d->stop)) {
        if (w->more) { /* there is work: the kernel need not be asked */
            gone = turn(w, PACKETS);
            continue;
        }
        const int n = epoll_wait(d->epoll_fd, events, 4, -1); /* EINTR: all signals are blocked, but a debugger may stop us */
        unsigned ready = 0;
        bool deleted = false;
        for (int i = 0; i < n; i++) {
            ready |= events[i].data.u32;
            deleted |= events[i].data.u32 == TUN && (events[i].events & EPOLLERR);
        }
        if (ready & WAKE) {
            uint64_t count;
            ssize_t ignored = read(d->wake_fd, &count, sizeof count);
            (void)ignored;
        }
        gone = turn(w, ready);
        if (!gone && deleted) gone = EIO;
    }
    if (gone) {
        mh_event e;
        memset(&e, 0, offsetof(mh_event, data));
        e.kind = MH_EVENT_STOPPED;
        e.error = gone;
        if (!mh_ring_push(d->ring, &e)) {
            atomic_store(&d->stopped, gone);
            atomic_store(&d->unsent, true);
            mh_ring_wake(d->ring);
        }
    }
    return NULL;
}

mh_datapath *mh_datapath_new(int tun_fd, bool vnet_hdr, unsigned tun_offloads, unsigned mtu, int *error) {
    *error = ENOMEM;
    mh_datapath *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    pthread_mutex_init(&d->control, NULL); /* default mutexes: cannot fail on Linux */
    pthread_mutex_init(&d->registry, NULL);
    d->tun.vnet_hdr = vnet_hdr;
    d->tun_offloads = vnet_hdr && (tun_offloads & TUN_F_CSUM) ? tun_offloads : 0;
    if (d->tun_offloads & TUN_F_TSO4) d->join_kinds |= MH_JOIN_TCP4;
    if (d->tun_offloads & TUN_F_TSO6) d->join_kinds |= MH_JOIN_TCP6;
    if (d->tun_offloads & TUN_F_USO4) d->join_kinds |= MH_JOIN_UDP4;
    if (d->tun_offloads & TUN_F_USO6) d->join_kinds |= MH_JOIN_UDP6;
    atomic_init(&d->mtu, mtu);
    atomic_init(&d->probe_ident, -1);
    mh_worker *w = &d->worker;
    w->d = d;
    w->fragments = mh_fragments_new();
    const bool backlog = mh_backlog_init(&w->backlog);
    w->wire = malloc(MH_WIRE_BYTES);
    w->inbox = mh_udp_inbox_new();
    w->scratch = malloc(MH_READ_BYTES);
    d->indices = mh_index_table_new();
    d->ring = mh_ring_new(RING_SLOTS);
    d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->tun.fd = fcntl(tun_fd, F_DUPFD_CLOEXEC, 0);
    const int flags = d->tun.fd < 0 ? -1 : fcntl(d->tun.fd, F_GETFL);
    if (d->epoll_fd < 0 || d->wake_fd < 0 || flags < 0 || fcntl(d->tun.fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        watch(d, d->wake_fd, WAKE) != 0 || watch(d, d->tun.fd, TUN) != 0) {
        *error = errno;
    } else if (w->fragments && backlog && w->wire && w->inbox && w->scratch && d->indices && d->ring) {
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
    if (d->tun.fd >= 0) close(d->tun.fd);
    if (d->wake_fd >= 0) close(d->wake_fd);
    if (d->epoll_fd >= 0) close(d->epoll_fd);
    free_snapshot(atomic_load(&d->snapshot));
    free(atomic_load(&d->sockets));
    mh_guard_free(atomic_load(&d->guard));
    if (d->indices) mh_index_table_free(d->indices);
    for (size_t i = 0; i < d->n_peers; i++) mh_peer_free(d->peers[i]);
    for (size_t i = 0; i < d->n_removed; i++) mh_peer_free(d->removed[i]);
    free(d->peers);
    free(d->removed);
    if (d->ring) mh_ring_free(d->ring);
    mh_worker *w = &d->worker;
    if (w->fragments) mh_fragments_free(w->fragments);
    mh_backlog_free(&w->backlog);
    free(w->wire);
    mh_udp_inbox_free(w->inbox);
    free(w->scratch);
    pthread_mutex_destroy(&d->control);
    pthread_mutex_destroy(&d->registry);
    free(d);
}

int mh_datapath_start(mh_datapath *d) {
    pthread_mutex_lock(&d->control);
    int error = d->running ? EBUSY : 0;
    if (!error) {
        atomic_store(&d->stop, false);
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's business */
        error = pthread_create(&d->thread, NULL, run, &d->worker);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (!error) {
            d->running = true;
            pthread_setname_np(d->thread, "molehill-data");
        }
    }
    pthread_mutex_unlock(&d->control);
    return error;
}

void mh_datapath_stop(mh_datapath *d) {
    pthread_mutex_lock(&d->control);
    if (d->running) {
        atomic_store(&d->stop, true);
        mh_datapath_wake(d);
        pthread_join(d->thread, NULL);
        d->running = false;
    }
    pthread_mutex_unlock(&d->control);
}

int mh_datapath_turn(mh_datapath *d) {
    pthread_mutex_lock(&d->control);
    const int error = d->running ? EBUSY : turn(&d->worker, PACKETS);
    pthread_mutex_unlock(&d->control);
    return error;
}

int mh_datapath_set_sockets(mh_datapath *d, int udp4, int udp6, bool offload) {
    mh_udp *u = calloc(1, sizeof *u);
    if (!u) return ENOMEM;
    int error = mh_udp_init(u, udp4, udp6, offload);
    pthread_mutex_lock(&d->control);
    if (!error) error = watch(d, udp4, UDP4);
    if (!error && (error = watch(d, udp6, UDP6)) != 0) watch_no_longer(d, udp4);
    if (error) {
        free(u);
    } else {
        mh_udp *old = atomic_exchange(&d->sockets, u);
        mh_datapath_wake(d);
        mh_quiesce(d);
        if (old && old->fd4 != udp4) watch_no_longer(d, old->fd4);
        if (old && old->fd6 != udp6) watch_no_longer(d, old->fd6);
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

static size_t read_counts(const mh_snapshot *s, uint64_t *packets, uint64_t *bytes, size_t room) {
    if (!s) return 0;
    for (size_t i = 0; i < s->rules && i < room; i++) {
        packets[i] = atomic_load_explicit(&s->counts[i].packets, memory_order_relaxed);
        bytes[i] = atomic_load_explicit(&s->counts[i].bytes, memory_order_relaxed);
    }
    return s->rules;
}

/* NULL and errno: not a program, a bad prefix, no memory. */
static mh_snapshot *new_snapshot(const uint8_t *code, size_t len, const mh_prefix *routes, size_t n) {
    mh_program *program = code ? mh_program_load(code, len) : NULL;
    mh_allowedips *table = mh_allowedips_new(routes, n);
    const uint16_t rules = program ? mh_program_rules(program) : 0;
    mh_snapshot *s = calloc(1, sizeof *s + rules * sizeof s->counts[0]);
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
    mh_unlist_removed(&d->unsent_peers, MH_LIST_UNSENT);
    mh_unlist_removed(&d->retired_peers, MH_LIST_RETIRED);
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
    mh_snapshot *s = new_snapshot(code, len, routes, n);
    if (!s) return -errno;
    pthread_mutex_lock(&d->control);
    mh_snapshot *old = atomic_exchange(&d->snapshot, s);
    mh_quiesce(d);
    const int rules = (int)read_counts(old, packets, bytes, room);
    free_snapshot(old);
    rejudge_staged(d, s);
    free_removed(d, routes, n);
    pthread_mutex_unlock(&d->control);
    return rules;
}

size_t mh_datapath_verdicts(mh_datapath *d, uint64_t *packets, uint64_t *bytes, size_t room) {
    pthread_mutex_lock(&d->control);
    const size_t n = read_counts(atomic_load(&d->snapshot), packets, bytes, room);
    pthread_mutex_unlock(&d->control);
    return n;
}

size_t mh_datapath_drops(const mh_datapath *d, uint64_t *by_reason, size_t room) {
    for (size_t i = 0; i < MH_REASON_COUNT && i < room; i++)
        by_reason[i] = atomic_load_explicit(&d->drops.by_reason[i], memory_order_relaxed);
    return MH_REASON_COUNT;
}

void mh_datapath_statistics(const mh_datapath *d, mh_statistics *out) {
#define X(name) out->name = atomic_load_explicit(&d->worker.work.name, memory_order_relaxed);
    MH_WORK(X)
#undef X
}

void mh_datapath_offloads(mh_datapath *d, mh_offloads *out) {
    pthread_mutex_lock(&d->control);
    const mh_udp *u = atomic_load(&d->sockets);
    *out = (mh_offloads){
        .vnet_hdr = d->tun.vnet_hdr,
        .tso4 = d->join_kinds & MH_JOIN_TCP4,
        .tso6 = d->join_kinds & MH_JOIN_TCP6,
        .uso4 = d->join_kinds & MH_JOIN_UDP4,
        .uso6 = d->join_kinds & MH_JOIN_UDP6,
        .udp_segment = u && atomic_load(&u->segment),
        .udp_gro = u && u->gro,
    };
    pthread_mutex_unlock(&d->control);
}
