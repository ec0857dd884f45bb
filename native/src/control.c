/*
 * control.c - what the control plane does with peers, sessions and events, beside the packets.
 *
 * A session comes: index table, then slot. It goes: slot, index table, then a quiescent point, and only then its memory.
 * Every call that changes these holds `control`, so they take turns; a peer's own lock is held only for a moment.
 */
#include <errno.h>
#include <stdlib.h>

#include "datapath.h"
#include "worker.h"

#define HANDSHAKE_TOS 0x88 /* AF41, as kernel WireGuard marks its handshakes */

/* Frees sessions that have left their slots. Caller holds control. */
static void retire(mh_datapath *d, mh_session **sessions, size_t n) {
    if (!n) return;
    for (size_t i = 0; i < n; i++) mh_index_table_remove(d->indices, sessions[i]);
    mh_quiesce(d);
    mh_index_table_reclaim(d->indices);
    for (size_t i = 0; i < n; i++) mh_session_free(sessions[i]);
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
        p->place = d->n_peers;
        d->peers[d->n_peers++] = p;
        pthread_mutex_unlock(&d->registry);
    }
    pthread_mutex_unlock(&d->control);
    return p;
}

size_t mh_datapath_peers(mh_datapath *d, mh_peer_facts *out, size_t room) {
    pthread_mutex_lock(&d->registry);
    const size_t n = d->n_peers;
    for (size_t i = 0; i < n && i < room; i++) {
        out[i].id = d->peers[i]->id;
        mh_peer_get_endpoint(d->peers[i], &out[i].endpoint);
        mh_peer_get_traffic(d->peers[i], &out[i].traffic);
    }
    pthread_mutex_unlock(&d->registry);
    return n;
}

/* Takes every session from the peer. Caller holds control. */
static void take_keys(mh_datapath *d, mh_peer *p) {
    mh_session *sessions[3];
    pthread_mutex_lock(&p->lock);
    const size_t n = mh_peer_take_all(p, sessions);
    pthread_mutex_unlock(&p->lock);
    retire(d, sessions, n);
}

void mh_datapath_remove_peer(mh_datapath *d, mh_peer *p) {
    pthread_mutex_lock(&d->control);
    atomic_store(&p->removed, true);
    pthread_mutex_lock(&d->registry);
    mh_peer *last = d->peers[--d->n_peers];
    d->peers[p->place] = last;
    last->place = p->place;
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
    mh_peer *p = d->unsent_peers;
    while (p && atomic_load(&p->removed)) p = d->unsent_peers = p->next_unsent;
    if (p) {
        e->kind = (uint32_t)__builtin_ctz(p->unsent_events);
        e->peer = p->id;
        p->unsent_events &= p->unsent_events - 1;
        if (!p->unsent_events) d->unsent_peers = p->next_unsent;
    }
    pthread_mutex_unlock(&d->registry);
    if (e->kind) atomic_store(&d->unsent, true); /* there may be more */
    return e->kind != 0;
}

bool mh_datapath_event(mh_datapath *d, mh_event *e) {
    /* Once more behind the pop, which may have drained the wake of an event that came unsent in between. */
    return unsent_event(d, e) || mh_ring_pop(d->ring, e) || unsent_event(d, e);
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
    mh_session *out[2];
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
        lost = mh_peer_stage(p, packet, (uint32_t)len, padded, 0, true);
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
