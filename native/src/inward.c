/*
 * inward.c - a packet's way in: UDP -> message type -> open -> replay -> source -> verdict -> join -> TUN.
 *
 * Order of events: datagrams (GRO bursts) are cut into messages; handshake messages go up to Python; data messages are
 * looked up by receiver index and collected. The batch is then opened session by session; what is authentic may
 * confirm a session, move the peer's endpoint and note the time. Each packet must then come from an address of its
 * peer, gets the outer congestion mark (RFC 6040), is judged, and joined with its neighbours. Nothing is reordered.
 */
#include <errno.h>
#include <netinet/in.h>

#include "checksum.h"
#include "worker.h"

#define COOKIES_BEHIND 64 /* events: a cookie reply has no mac1, so behind more than these it is not worth a place */
#define LOAD_DEPTH 128   /* events: as wireguard-go, from here on senders must show that they can receive */
#define LOAD_NS UINT64_C(1000000000)
#define COOKIES_PER_SECOND 10000 /* each costs as much as sending a data message: a flood must not buy them all */
#define COOKIES_BURST 1000
#define ECT1 1
#define CE 3

static void drop(mh_worker *w, unsigned reason, uint64_t packets) { mh_drop(&w->d->drops, reason, packets); }

/* The peer an inner source address belongs to. */
static mh_peer *source_owner(const mh_snapshot *s, const mh_facts *f) {
    return f->version == 4 ? mh_allowedips_find4(s->routes, f->src) : mh_allowedips_find6(s->routes, f->src);
}

/* Carries the outer congestion mark inward (RFC 6040 4.2). false: a mark on a packet that cannot carry it, so drop. */
static bool decapsulate_ecn(uint8_t *packet, uint8_t inner, uint8_t outer) {
    if (inner == 0) return outer != CE;
    if (outer == CE && inner != CE) mh_set_ecn(packet, CE);
    if (outer == ECT1 && inner == 2) mh_set_ecn(packet, ECT1);
    return true;
}

static bool is_probe_reply(const mh_worker *w, const uint8_t *packet, const mh_facts *f) {
    const int ident = atomic_load_explicit(&w->d->probe_ident, memory_order_relaxed);
    return ident >= 0 && f->has_icmp && f->fragment == MH_WHOLE && f->total_len >= (uint32_t)f->header_len + 8 &&
           ((f->version == 4 && f->proto == IPPROTO_ICMP && f->icmp_type == 0) ||
            (f->version == 6 && f->proto == IPPROTO_ICMPV6 && f->icmp_type == 129)) &&
           mh_get16be(packet + f->header_len + 4) == ident;
}

static void push_data(mh_worker *w, mh_event *e, const uint8_t *data, uint32_t len) {
    e->len = len < MH_EVENT_DATA_MAX ? len : MH_EVENT_DATA_MAX;
    memcpy(e->data, data, e->len);
    if (!mh_ring_push(w->d->ring, e)) drop(w, MH_REASON_RING_FULL, 1);
}

/* The IP packet in front of its padding, or 0. */
static uint32_t inner_len(const uint8_t *plain, uint32_t len) {
    uint32_t total = 0;
    if (len >= 20 && plain[0] >> 4 == 4) total = mh_get16be(plain + 2);
    if (len >= 40 && plain[0] >> 4 == 6) total = 40u + mh_get16be(plain + 4);
    return total <= len ? total : 0;
}

/* An authentic data message. Returns whether it counts as received from its peer: as kernel WireGuard does, once its source
 * address is found honest. */
static bool packet_in(mh_worker *w, const mh_arrival *a, mh_aead_job *job) {
    mh_peer *p = a->peer;
    uint8_t *packet = job->data;
    mh_facts f;
    const mh_decision *recalled = NULL;
    if (job->len) {
        const uint32_t len = inner_len(packet, job->len);
        unsigned reason = len ? (unsigned)mh_parse(packet, len, &f) : MH_REASON_MALFORMED;
        if (!reason && !w->snapshot) reason = MH_REASON_NO_POLICY;
        f.direction = MH_IN;
        f.iface_in = MH_TUNNEL;
        if (!reason) recalled = mh_recall(w, &f);
        if (!reason && (recalled ? recalled->peer : source_owner(w->snapshot, &f)) != p) reason = MH_REASON_SOURCE;
        if (reason) {
            drop(w, reason, 1);
            return false;
        }
    }
    if (!job->len) return true; /* keepalive */

    if (is_probe_reply(w, packet, &f)) {
        mh_event e = {.kind = MH_EVENT_PROBE, .peer = p->id};
        push_data(w, &e, packet, f.total_len);
        return true;
    }
    if (!decapsulate_ecn(packet, f.tos & 3, w->batch.datagram[a->datagram].tos & 3)) {
        drop(w, MH_REASON_ECN, 1);
        return true;
    }
    const mh_verdict v = mh_worker_judge(w, &f, recalled, p, 1);
    if (!v.accept) {
        drop(w, v.reason, 1);
        return true;
    }
    mh_count(&w->work.packets_in, 1);
    mh_count(&w->work.bytes_in, f.total_len);
    mh_join_add(&w->join, packet, f.total_len, &f); /* as large as a batch: it is never full */
    return true;
}

/* Is this newer than all that came before? By birth of the session, then counter. */
static bool newer(const mh_peer *p, uint64_t birth_ns, uint64_t counter) {
    return !p->newest_any || birth_ns > p->newest_birth_ns ||
           (birth_ns == p->newest_birth_ns && counter > p->newest_counter);
}

/* What authentic messages [from, to) of one session mean for its peer. false: the session has left its slots. */
static bool note_authentic(mh_worker *w, size_t from, size_t to) {
    mh_batch *b = &w->batch;
    mh_session *s = b->arrival[from].session;
    mh_peer *p = b->arrival[from].peer;
    const uint64_t birth_ns = mh_session_birth_ns(s);
    bool confirmed = false, timers = false, handshake = false, data = false;
    uint32_t calls = 0;

    pthread_mutex_lock(&p->lock);
    if (s != p->current && s != p->next && s != p->previous) {
        pthread_mutex_unlock(&p->lock);
        return false;
    }
    if (s == p->next) {
        mh_peer_confirm(p);
        confirmed = true;
    }
    const mh_endpoint *moved = NULL;
    for (size_t i = from; i < to; i++) {
        if (b->reasons[i] != MH_REASON_NONE) continue;
        data |= b->jobs[i].len > 0;
        if (!newer(p, birth_ns, b->jobs[i].counter)) continue;
        p->newest_any = true;
        p->newest_birth_ns = birth_ns;
        p->newest_counter = b->jobs[i].counter;
        moved = &b->datagram[b->arrival[i].datagram].from;
    }
    if (moved && !(mh_endpoint_same(moved, &p->endpoint) && moved->local_family == p->endpoint.local_family &&
                   moved->ifindex == p->endpoint.ifindex && memcmp(moved->local, p->endpoint.local, 16) == 0))
        p->endpoint = *moved;
    timers = mh_peer_note_received(p, data, w->now_ns);
    handshake = mh_peer_renew_on_receive(p, w->now_ns) && mh_peer_ask_handshake(p);
    if (confirmed) timers |= mh_flush_staged(w->d, w->sockets, p, w->now_ns, &calls);
    pthread_mutex_unlock(&p->lock);

    mh_count(&w->work.udp_sends, calls);
    if (confirmed) mh_push(w->d, MH_EVENT_CONFIRMED, p);
    if (timers) mh_push(w->d, MH_EVENT_TIMERS, p);
    if (handshake) mh_push(w->d, MH_EVENT_HANDSHAKE, p);
    return true;
}

/* Opens the batch, session by session, in order. */
static void open_batch(mh_worker *w) {
    mh_batch *b = &w->batch;
    for (size_t from = 0, to; from < b->n; from = to) {
        mh_session *s = b->arrival[from].session;
        for (to = from + 1; to < b->n && b->arrival[to].session == s;) to++;
        const size_t good = mh_session_open(s, b->jobs + from, b->reasons + from, to - from, w->now_ns);
        const bool known = good == 0 || note_authentic(w, from, to);
        uint64_t packets = 0, bytes = 0;
        for (size_t i = from; i < to; i++) {
            const uint32_t message = b->jobs[i].len + MH_DATA_OVERHEAD;
            if (b->reasons[i] != MH_REASON_NONE) {
                drop(w, b->reasons[i], 1);
            } else if (!known) {
                drop(w, MH_REASON_UNKNOWN_INDEX, 1);
            } else if (packet_in(w, &b->arrival[i], &b->jobs[i])) {
                packets++;
                bytes += message;
            }
        }
        mh_peer *p = b->arrival[from].peer;
        atomic_fetch_add_explicit(&p->rx_bytes, bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&p->rx_packets, packets, memory_order_relaxed);
    }
    b->n = 0;
}

/* The queue that a flow's packets are written into: the one they are read of, so that the kernel changes nothing. A flow
 * of which nothing was read is from now on this worker's. */
static const mh_tun *queue_of(mh_worker *w, const uint8_t *packet, size_t len) {
    mh_datapath *d = w->d;
    mh_facts f;
    if (!d->lanes || mh_parse(packet, len, &f) != 0) return &w->tun;
    _Atomic uint8_t *lane = &d->lanes[mh_lane(&f)];
    uint8_t number = atomic_load_explicit(lane, memory_order_relaxed);
    if (!number) atomic_store_explicit(lane, number = (uint8_t)(w->number + 1), memory_order_relaxed);
    return &d->worker[number - 1]->tun;
}

int mh_inward_finish(mh_worker *w) {
    mh_datapath *d = w->d;
    mh_join_reset(&w->join, d->join_kinds);
    open_batch(w);
    w->batch.datagrams = 0;
    int gone = 0;
    for (unsigned i = 0; i < w->join.units && !gone; i++) {
        struct iovec iov[MH_JOIN_PACKETS];
        mh_vnet_hdr h;
        const mh_join_packet *first = &w->join.packet[w->join.unit[i].first];
        const mh_tun *queue = queue_of(w, first->data, first->len); /* before its header says the length of all */
        const size_t n = mh_join_emit(&w->join, i, &h, iov);
        const int error = mh_tun_write(queue, &h, iov, n);
        mh_count(&w->work.tun_writes, 1);
        if (error) drop(w, MH_REASON_TUN_WRITE, w->join.unit[i].count);
        if (mh_tun_gone(error)) gone = error;
    }
    return gone;
}

/* A cookie for whoever can receive at the address this came from (paper 5.3). */
static void ask_for_cookie(mh_worker *w, mh_guard *g, const mh_endpoint *from, const uint8_t *message, uint32_t len) {
    uint8_t reply[MH_COOKIE_LEN];
    mh_endpoint to = *from;
    const mh_udp_burst burst = {.data = reply, .stride = sizeof reply, .total = sizeof reply};
    uint32_t sent = 0, calls = 0;
    drop(w, MH_REASON_NO_COOKIE, 1);
    if (!mh_bucket_take(&w->cookies, w->now_ns, COOKIES_PER_SECOND / w->d->n_workers, COOKIES_BURST / w->d->n_workers)) return;
    if (!mh_guard_reply(g, message, len, from, w->now_ns, reply)) return;
    if (mh_udp_send(w->sockets, &to, &burst, &sent, &calls)) drop(w, MH_REASON_UDP_SEND, 1);
    mh_count(&w->work.udp_sends, calls);
}

/* An initiation or a response: worth a place in the ring? Judged in the order of cost. */
static void handshake_in(mh_worker *w, const mh_endpoint *from, const uint8_t *message, uint32_t len) {
    mh_guard *g = atomic_load(&w->d->guard);
    mh_event e = {.kind = MH_EVENT_MESSAGE, .endpoint = *from};
    if (g) {
        if (!mh_guard_mac1(g, message, len)) {
            drop(w, MH_REASON_AUTH, 1); /* a stranger's */
            return;
        }
        if (mh_ring_depth(w->d->ring) >= LOAD_DEPTH) w->loaded_until_ns = w->now_ns + LOAD_NS;
        if (w->now_ns < w->loaded_until_ns) {
            if (!mh_guard_mac2(g, message, len, from, w->now_ns)) {
                ask_for_cookie(w, g, from, message, len);
                return;
            }
            e.proven = true;
        }
    }
    push_data(w, &e, message, len);
}

static void message_in(mh_worker *w, const mh_endpoint *from, uint8_t *message, uint32_t len) {
    mh_batch *b = &w->batch;
    uint32_t index;
    uint64_t counter;
    if (mh_data_header_get(message, len, &index, &counter)) {
        void *owner = NULL;
        mh_session *s = NULL;
        if (b->n && b->arrival[b->n - 1].index == index) { /* of a burst all are under one index */
            s = b->arrival[b->n - 1].session;
            owner = b->arrival[b->n - 1].peer;
        } else {
            s = mh_index_table_find(w->d->indices, index, &owner);
        }
        if (!s) {
            drop(w, MH_REASON_UNKNOWN_INDEX, 1);
            return;
        }
        b->arrival[b->n] = (mh_arrival){.session = s, .peer = owner, .index = index, .datagram = (uint16_t)(b->datagrams - 1)};
        b->jobs[b->n++] =
            (mh_aead_job){.data = message + MH_DATA_HEADER_LEN, .len = len - MH_DATA_OVERHEAD, .counter = counter};
        return;
    }
    const uint32_t type = len >= 4 ? mh_get32le(message) : 0;
    if ((type == 1 && len == MH_INITIATION_LEN) || (type == 2 && len == MH_RESPONSE_LEN)) {
        handshake_in(w, from, message, len);
    } else if (type == 3 && len == MH_COOKIE_LEN) {
        mh_event e = {.kind = MH_EVENT_MESSAGE, .endpoint = *from};
        if (mh_ring_depth(w->d->ring) > COOKIES_BEHIND)
            drop(w, MH_REASON_RING_FULL, 1);
        else
            push_data(w, &e, message, len);
    } else {
        drop(w, MH_REASON_UNKNOWN_TYPE, 1);
    }
}

int mh_inward_datagram(mh_worker *w, const mh_datagram *g) {
    mh_batch *b = &w->batch;
    int gone = 0;
    if (!g->from.port) { /* nobody can be answered there, and no endpoint has it */
        drop(w, MH_REASON_MALFORMED, 1);
        return 0;
    }
    if (b->datagrams == MH_BATCH) gone = mh_inward_finish(w);
    b->datagram[b->datagrams++] = *g;
    uint32_t at = 0;
    do {
        const uint32_t left = g->len - at, len = left < g->segment ? left : g->segment;
        if (b->n == MH_BATCH) {
            gone = mh_inward_finish(w);
            if (gone) return gone;
            b->datagram[b->datagrams++] = *g;
        }
        message_in(w, &g->from, g->data + at, len);
        at += len;
    } while (at < g->len);
    return gone;
}

/* Receives, opens and delivers, again until there is nothing or the budget is spent. */
int mh_inward(mh_worker *w, int fd) {
    if (fd < 0) return 0;
    size_t budget = MH_BUDGET;
    int gone = 0;
    for (bool more = true; more && budget && !gone;) {
        const mh_datagram *g;
        unsigned n;
        const int error = mh_udp_receive(w->inbox, fd, &g, &n, &more);
        mh_count(&w->work.udp_receives, 1);
        if (error == EAGAIN || error == EWOULDBLOCK) break;
        if (error) { /* an error about an earlier send: the next receive tells more */
            budget--;
            more = error == ECONNREFUSED;
            continue;
        }
        for (const mh_datagram *end = g + n; g < end && !gone; g++) {
            const size_t messages = g->len ? (g->len + g->segment - 1) / g->segment : 1;
            budget -= messages < budget ? messages : budget;
            gone = mh_inward_datagram(w, g);
        }
        if (!gone) gone = mh_inward_finish(w);
    }
    if (budget == 0) w->more = true;
    return gone;
}
