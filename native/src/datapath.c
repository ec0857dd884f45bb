/*
 * datapath.c - the worker thread, and publishing to it.
 *
 * The thread: epoch odd -> load snapshot and sockets -> outward, inward -> epoch even -> poll, without a timeout.
 * A publisher: store the new pointer -> wait while the epoch stays the odd number it was -> free the old. Both sides use
 * sequentially consistent atomics: either the worker sees the new pointer, or the publisher sees the odd epoch.
 */
#include "datapath.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "worker.h"

#define RING_SLOTS 512
#define HANDSHAKE_TOS 0x88 /* AF41, as kernel WireGuard marks its handshakes */
#define TUN_F_CSUM 0x01u
#define TUN_F_TSO4 0x02u
#define TUN_F_TSO6 0x04u
#define TUN_F_USO4 0x20u
#define TUN_F_USO6 0x40u

/* Waits until no worker is in the turn it is in now. Never under a peer's lock: the worker may want it to go on. */
static void quiesce(mh_datapath *d) {
    const uint64_t seen = atomic_load(&d->worker.epoch);
    const struct timespec pause = {.tv_nsec = 20000};
    while ((seen & 1) && atomic_load(&d->worker.epoch) == seen) nanosleep(&pause, NULL);
}

static void wake(mh_datapath *d) {
    const uint64_t one = 1;
    ssize_t ignored = write(d->wake_fd, &one, sizeof one); /* full means it is awake already */
    (void)ignored;
}

mh_verdict mh_worker_judge(mh_worker *w, const mh_facts *f, uint32_t packets) {
    mh_snapshot *s = w->snapshot;
    const mh_verdict v = mh_filter(s ? s->program : NULL, w->fragments, f, w->now_ns);
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
    atomic_fetch_or(&p->unsent_events, 1u << kind);
    atomic_store(&d->unsent, true);
}

/* Both directions once. tun and udp: worth a look? 0, or the errno for which the TUN is gone. */
static int turn(mh_worker *w, bool tun, bool udp, struct pollfd *next) {
    mh_datapath *d = w->d;
    atomic_fetch_add(&w->epoch, 1);
    w->snapshot = atomic_load(&d->snapshot);
    mh_udp *sockets = atomic_load(&d->sockets);
    udp |= sockets != w->sockets;
    w->sockets = sockets;
    w->now_ns = mh_now_ns();
    mh_count(&w->work.turns, 1);
    int gone = 0;
    if (tun) gone = mh_outward(w);
    if (udp && !gone) gone = mh_inward(w);
    if (next) {
        next[2].fd = sockets ? sockets->fd4 : -1;
        next[3].fd = sockets ? sockets->fd6 : -1;
    }
    atomic_fetch_add(&w->epoch, 1);
    return gone;
}

static void *run(void *argument) {
    mh_worker *w = argument;
    mh_datapath *d = w->d;
    struct pollfd fds[4] = {{.fd = d->wake_fd, .events = POLLIN},
                            {.fd = d->tun.fd, .events = POLLIN},
                            {.fd = -1, .events = POLLIN},
                            {.fd = -1, .events = POLLIN}};
    int gone = turn(w, true, true, fds);
    while (!gone && !atomic_load(&d->stop)) {
        if (poll(fds, 4, -1) < 0) continue; /* EINTR: all signals are blocked, but a debugger may stop us */
        if (fds[0].revents) {
            uint64_t count;
            ssize_t ignored = read(d->wake_fd, &count, sizeof count);
            (void)ignored;
        }
        const short tun = fds[1].revents, udp = (short)(fds[2].revents | fds[3].revents);
        gone = turn(w, tun != 0, udp != 0, fds);
        if (!gone && (tun & (POLLERR | POLLNVAL))) gone = EIO; /* the device is deleted */
        if (!gone && (udp & POLLNVAL) && !fds[0].revents) gone = EBADF; /* a socket was closed and not replaced */
    }
    if (gone) {
        mh_event e;
        memset(&e, 0, offsetof(mh_event, data));
        e.kind = MH_EVENT_STOPPED;
        e.error = gone;
        if (!mh_ring_push(d->ring, &e)) {
            atomic_store(&d->stopped, gone);
            atomic_store(&d->unsent, true);
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
    w->read = malloc(MH_READ_BYTES);
    w->wire = malloc(MH_WIRE_BYTES);
    w->receive = malloc(MH_RECEIVE_BYTES);
    w->scratch = malloc(MH_READ_BYTES);
    d->indices = mh_index_table_new();
    d->ring = mh_ring_new(RING_SLOTS);
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->tun.fd = fcntl(tun_fd, F_DUPFD_CLOEXEC, 0);
    if (d->tun.fd < 0 || d->wake_fd < 0) *error = errno;
    const int flags = d->tun.fd < 0 ? -1 : fcntl(d->tun.fd, F_GETFL);
    if (flags >= 0 && fcntl(d->tun.fd, F_SETFL, flags | O_NONBLOCK) == 0 && d->wake_fd >= 0 && w->fragments && w->read &&
        w->wire && w->receive && w->scratch && d->indices && d->ring) {
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
    free_snapshot(atomic_load(&d->snapshot));
    free(atomic_load(&d->sockets));
    if (d->indices) mh_index_table_free(d->indices);
    for (size_t i = 0; i < d->n_peers; i++) mh_peer_free(d->peers[i]);
    for (size_t i = 0; i < d->n_removed; i++) mh_peer_free(d->removed[i]);
    free(d->peers);
    free(d->removed);
    if (d->ring) mh_ring_free(d->ring);
    mh_worker *w = &d->worker;
    if (w->fragments) mh_fragments_free(w->fragments);
    free(w->read);
    free(w->wire);
    free(w->receive);
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
        wake(d);
        pthread_join(d->thread, NULL);
        d->running = false;
    }
    pthread_mutex_unlock(&d->control);
}

int mh_datapath_turn(mh_datapath *d) {
    pthread_mutex_lock(&d->control);
    const int error = d->running ? EBUSY : turn(&d->worker, true, true, NULL);
    pthread_mutex_unlock(&d->control);
    return error;
}

int mh_datapath_set_sockets(mh_datapath *d, int udp4, int udp6, bool offload) {
    mh_udp *u = calloc(1, sizeof *u);
    if (!u) return ENOMEM;
    const int error = mh_udp_init(u, udp4, udp6, offload);
    if (error) {
        free(u);
        return error;
    }
    pthread_mutex_lock(&d->control);
    mh_udp *old = atomic_exchange(&d->sockets, u);
    wake(d);
    quiesce(d);
    free(old);
    pthread_mutex_unlock(&d->control);
    return 0;
}

void mh_datapath_set_mtu(mh_datapath *d, unsigned mtu) { atomic_store(&d->mtu, mtu); }

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
    size_t kept = 0;
    for (size_t i = 0; i < d->n_removed; i++) {
        bool used = false;
        for (size_t k = 0; k < n && !used; k++) used = routes[k].owner == d->removed[i];
        if (used)
            d->removed[kept++] = d->removed[i];
        else
            mh_peer_free(d->removed[i]);
    }
    d->n_removed = kept;
}

int mh_datapath_publish(mh_datapath *d, const uint8_t *code, size_t len, const mh_prefix *routes, size_t n,
                        uint64_t *packets, uint64_t *bytes, size_t room) {
    mh_snapshot *s = new_snapshot(code, len, routes, n);
    if (!s) return -errno;
    pthread_mutex_lock(&d->control);
    mh_snapshot *old = atomic_exchange(&d->snapshot, s);
    quiesce(d);
    const int rules = (int)read_counts(old, packets, bytes, room);
    free_snapshot(old);
    free_removed(d, routes, n);
    pthread_mutex_unlock(&d->control);
    return rules;
}

/* Frees sessions that have left their slots. Caller holds control. */
static void retire(mh_datapath *d, mh_session **sessions, size_t n) {
    for (size_t i = 0; i < n; i++) mh_index_table_remove(d->indices, sessions[i]);
    quiesce(d);
    mh_index_table_reclaim(d->indices);
    for (size_t i = 0; i < n; i++) mh_session_free(sessions[i]);
}

static void retire_confirmed(mh_datapath *d) {
    if (!atomic_exchange(&d->retired, false)) return;
    pthread_mutex_lock(&d->control);
    for (size_t i = 0; i < d->n_peers; i++) {
        mh_peer *p = d->peers[i];
        pthread_mutex_lock(&p->lock);
        mh_session *s = p->retired;
        p->retired = NULL;
        pthread_mutex_unlock(&p->lock);
        if (s) retire(d, &s, 1);
    }
    pthread_mutex_unlock(&d->control);
}

mh_peer *mh_datapath_add_peer(mh_datapath *d) {
    pthread_mutex_lock(&d->control);
    mh_peer *p = NULL;
    if (d->n_peers == d->room_peers) {
        const size_t room = d->room_peers ? 2 * d->room_peers : 8;
        pthread_mutex_lock(&d->registry);
        mh_peer **peers = realloc(d->peers, room * sizeof *peers);
        if (peers) d->peers = peers;
        pthread_mutex_unlock(&d->registry);
        if (peers) d->room_peers = room;
    }
    if (d->n_peers < d->room_peers && (p = mh_peer_new(d->last_id + 1)) != NULL) {
        d->last_id++;
        pthread_mutex_lock(&d->registry);
        d->peers[d->n_peers++] = p;
        pthread_mutex_unlock(&d->registry);
    }
    pthread_mutex_unlock(&d->control);
    return p;
}

/* Takes every session from the peer. Caller holds control. */
static void take_keys(mh_datapath *d, mh_peer *p) {
    mh_session *sessions[4];
    pthread_mutex_lock(&p->lock);
    const size_t n = mh_peer_take_all(p, sessions);
    pthread_mutex_unlock(&p->lock);
    retire(d, sessions, n);
}

void mh_datapath_remove_peer(mh_datapath *d, mh_peer *p) {
    pthread_mutex_lock(&d->control);
    atomic_store(&p->removed, true);
    pthread_mutex_lock(&d->registry);
    for (size_t i = 0; i < d->n_peers; i++)
        if (d->peers[i] == p) d->peers[i] = d->peers[--d->n_peers];
    pthread_mutex_unlock(&d->registry);
    take_keys(d, p);
    mh_peer **removed = realloc(d->removed, (d->n_removed + 1) * sizeof *removed);
    if (removed) { /* else it is lost to us, which is better than freed under the worker */
        d->removed = removed;
        removed[d->n_removed++] = p;
    }
    pthread_mutex_unlock(&d->control);
}

int mh_datapath_send(mh_datapath *d, const mh_endpoint *to, const uint8_t *data, size_t len, mh_peer *p) {
    uint8_t copy[MH_EVENT_DATA_MAX];
    if (len == 0 || len > sizeof copy) return EMSGSIZE;
    memcpy(copy, data, len);
    mh_endpoint target = *to;
    const mh_udp_burst burst = {.data = copy, .stride = (uint32_t)len, .total = (uint32_t)len, .tos = HANDSHAKE_TOS};
    uint32_t sent = 0, calls = 0;
    pthread_mutex_lock(&d->control);
    mh_udp *u = atomic_load(&d->sockets);
    const int error = u ? mh_udp_send(u, &target, &burst, &sent, &calls) : ENOTCONN;
    if (error) {
        mh_drop(&d->drops, MH_REASON_UDP_SEND, 1);
    } else if (p) {
        atomic_fetch_add_explicit(&p->tx_bytes, len, memory_order_relaxed);
        pthread_mutex_lock(&p->lock);
        mh_peer_learn(p, &target);
        const bool timers = mh_peer_note_sent(p, false, mh_now_ns());
        pthread_mutex_unlock(&p->lock);
        if (timers) mh_push(d, MH_EVENT_TIMERS, p);
    }
    pthread_mutex_unlock(&d->control);
    return error;
}

void mh_datapath_expect_probe(mh_datapath *d, int ident) { atomic_store(&d->probe_ident, ident); }

int mh_datapath_event_fd(const mh_datapath *d) { return mh_ring_fd(d->ring); }

/* An event for which there had been no room. */
static bool unsent_event(mh_datapath *d, mh_event *e) {
    if (!atomic_exchange(&d->unsent, false)) return false;
    memset(e, 0, offsetof(mh_event, data));
    e->error = atomic_exchange(&d->stopped, 0);
    if (e->error) {
        e->kind = MH_EVENT_STOPPED;
        atomic_store(&d->unsent, true);
        return true;
    }
    pthread_mutex_lock(&d->registry);
    for (size_t i = 0; i < d->n_peers && !e->kind; i++) {
        mh_peer *p = d->peers[i];
        const unsigned bits = atomic_load(&p->unsent_events);
        for (unsigned kind = 1; bits && !e->kind; kind++) {
            if (!(bits & (1u << kind))) continue;
            atomic_fetch_and(&p->unsent_events, ~(1u << kind));
            e->kind = kind;
            e->peer = p->id;
        }
    }
    pthread_mutex_unlock(&d->registry);
    if (e->kind) atomic_store(&d->unsent, true); /* there may be more */
    return e->kind != 0;
}

bool mh_datapath_event(mh_datapath *d, mh_event *e) {
    retire_confirmed(d);
    return unsent_event(d, e) || mh_ring_pop(d->ring, e);
}

uint32_t mh_peer_id(const mh_peer *p) { return p->id; }

void mh_peer_get_endpoint(mh_peer *p, mh_endpoint *out) {
    pthread_mutex_lock(&p->lock);
    *out = p->endpoint;
    pthread_mutex_unlock(&p->lock);
}

void mh_peer_set_endpoint(mh_peer *p, const mh_endpoint *e) {
    pthread_mutex_lock(&p->lock);
    p->endpoint = *e;
    p->endpoint.no_bursts = 0;
    pthread_mutex_unlock(&p->lock);
}

void mh_peer_get_traffic(mh_peer *p, mh_traffic *out) {
    pthread_mutex_lock(&p->lock);
    *out = p->times;
    pthread_mutex_unlock(&p->lock);
    out->rx_bytes = atomic_load_explicit(&p->rx_bytes, memory_order_relaxed);
    out->tx_bytes = atomic_load_explicit(&p->tx_bytes, memory_order_relaxed);
    out->rx_packets = atomic_load_explicit(&p->rx_packets, memory_order_relaxed);
    out->tx_packets = atomic_load_explicit(&p->tx_packets, memory_order_relaxed);
}

void mh_peer_count_received(mh_peer *p, uint64_t bytes) {
    atomic_fetch_add_explicit(&p->rx_bytes, bytes, memory_order_relaxed);
    pthread_mutex_lock(&p->lock);
    p->times.last_received_ns = mh_now_ns();
    p->times.unanswered_sent_ns = 0;
    pthread_mutex_unlock(&p->lock);
}

void mh_peer_disarm(mh_peer *p) {
    pthread_mutex_lock(&p->lock);
    p->timers_armed = false;
    pthread_mutex_unlock(&p->lock);
}

void mh_peer_handshake_done(mh_peer *p) {
    pthread_mutex_lock(&p->lock);
    p->handshake_asked = false;
    pthread_mutex_unlock(&p->lock);
}

int mh_peer_install_session(mh_datapath *d, mh_peer *p, mh_session *s) {
    mh_session *out[3];
    uint32_t calls = 0;
    pthread_mutex_lock(&d->control);
    if (!mh_index_table_add(d->indices, s, p)) {
        pthread_mutex_unlock(&d->control);
        return EEXIST;
    }
    pthread_mutex_lock(&p->lock);
    const size_t n = mh_peer_install(p, s, out);
    /* Under the lock: what was staged goes before anything the worker sends under this session. */
    const bool timers = mh_flush_staged(d, atomic_load(&d->sockets), p, mh_now_ns(), &calls);
    pthread_mutex_unlock(&p->lock);
    if (timers) mh_push(d, MH_EVENT_TIMERS, p);
    retire(d, out, n);
    pthread_mutex_unlock(&d->control);
    return 0;
}

void mh_peer_erase_keys(mh_datapath *d, mh_peer *p) {
    pthread_mutex_lock(&d->control);
    take_keys(d, p);
    pthread_mutex_unlock(&d->control);
}

size_t mh_peer_drop_staged(mh_datapath *d, mh_peer *p) {
    size_t n = 0;
    mh_staged m;
    pthread_mutex_lock(&p->lock);
    for (; mh_peer_unstage(p, &m); n++) free(m.message);
    pthread_mutex_unlock(&p->lock);
    mh_drop(&d->drops, MH_REASON_STAGE_EXPIRED, n);
    return n;
}

int mh_peer_send_packet(mh_datapath *d, mh_peer *p, const uint8_t *packet, size_t len) {
    const uint32_t mtu = atomic_load(&d->mtu);
    if (len > mtu) return EMSGSIZE;
    const uint64_t now_ns = mh_now_ns();
    const uint32_t padded = mh_padded((uint32_t)len, mtu), message_len = padded + MH_DATA_OVERHEAD;
    uint8_t *message = calloc(1, message_len);
    if (!message) return ENOMEM;
    if (len) memcpy(message + MH_DATA_HEADER_LEN, packet, len);
    mh_aead_job job = {.data = message + MH_DATA_HEADER_LEN, .len = padded};
    const mh_udp_burst burst = {.data = message, .stride = message_len, .total = message_len};
    uint32_t sent = 0, calls = 0, lost = 0;
    bool timers = false, handshake = false;
    int error = ENOKEY;

    pthread_mutex_lock(&d->control);
    mh_udp *u = atomic_load(&d->sockets);
    pthread_mutex_lock(&p->lock);
    mh_session *s = mh_peer_sending(p, now_ns);
    if (!p->endpoint.family) {
        error = EDESTADDRREQ;
    } else if (s && mh_session_seal(s, &job, 1, now_ns) == 1) {
        error = u ? mh_udp_send(u, &p->endpoint, &burst, &sent, &calls) : ENOTCONN;
        if (!error) timers = mh_peer_note_sent(p, len > 0, now_ns);
        handshake = mh_peer_renew_on_send(p, now_ns) && mh_peer_ask_handshake(p);
    } else if (len) {
        lost = mh_peer_stage(p, packet, (uint32_t)len, padded, 0);
        handshake = mh_peer_ask_handshake(p);
    }
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_unlock(&d->control);

    atomic_fetch_add_explicit(&p->tx_bytes, sent, memory_order_relaxed);
    if (sent) atomic_fetch_add_explicit(&p->tx_packets, 1, memory_order_relaxed);
    if (lost) mh_drop(&d->drops, MH_REASON_STAGE_FULL, lost);
    if (error && error != ENOKEY) mh_drop(&d->drops, error == EDESTADDRREQ ? MH_REASON_NO_ENDPOINT : MH_REASON_UDP_SEND, 1);
    if (timers) mh_push(d, MH_EVENT_TIMERS, p);
    if (handshake) mh_push(d, MH_EVENT_HANDSHAKE, p);
    mh_wipe(message, message_len);
    free(message);
    return error;
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
