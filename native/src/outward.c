/*
 * outward.c - a packet's way out: TUN -> parse -> verdict -> peer -> split, pad -> seal -> UDP.
 *
 * The TUN is read as far as it goes; super-packets wait in the backlog (backlog.h), what is small goes at once.
 * Order of events for one read (a packet or a super-packet): drop what does not parse; drop our own outer packets that
 * were routed back into the TUN; the verdict; the peer by allowed IPs; no session -> its stage queue and a HANDSHAKE
 * event; else its wire packets are laid into the burst, which is sealed and sent when it is large enough, when
 * another peer's packet comes, and at the end of the turn.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "worker.h"

#define AHEAD 32           /* reads that may go before one that waits: else a flood of small ones would starve it */
#define BURST_ENOUGH 48000 /* bytes: about one UDP_SEGMENT send; a longer burst only waits */

uint32_t mh_padded(uint32_t len, uint32_t mtu) {
    if (mtu == 0) return (len + 15) & ~15u;
    const uint32_t last = len > mtu ? len % mtu : len;
    const uint32_t padded = (last + 15) & ~15u;
    return len - last + (padded > mtu ? mtu : padded);
}

static void drop(mh_worker *w, unsigned reason, uint64_t packets) { mh_drop(&w->d->drops, reason, packets); }

/* Answers to local senders are bounded as the kernel bounds its own; each worker has its share. */
static bool may_answer(mh_worker *w) {
    const unsigned n = w->d->n_workers;
    return mh_bucket_take(&w->answers, w->now_ns, MH_ANSWERS_PER_SECOND / n, MH_ANSWERS_BURST / n);
}

/* Remembers that the flow comes by this worker's queue: what is written into that one, the kernel gives no other queue. */
static void note_lane(const mh_worker *w, const mh_facts *f) {
    if (!w->d->lanes) return;
    _Atomic uint8_t *lane = &w->d->lanes[mh_lane(f)];
    const uint8_t mine = (uint8_t)(w->number + 1);
    if (atomic_load_explicit(lane, memory_order_relaxed) != mine) atomic_store_explicit(lane, mine, memory_order_relaxed);
}

/* A packet of our own making (in scratch) to the local sender. */
static int answer(mh_worker *w, size_t len) {
    if (!len) return 0;
    const mh_vnet_hdr plain = {0};
    const struct iovec iov = {.iov_base = w->scratch, .iov_len = len};
    const int error = mh_tun_write(&w->tun, &plain, &iov, 1);
    mh_count(&w->work.tun_writes, 1);
    return mh_tun_gone(error) ? error : 0;
}

/* UDP from our listen port to a peer's endpoint: it left our socket, so the routes lead in a circle. */
static bool own_outer(mh_worker *w, const mh_facts *f) {
    const mh_udp *u = w->sockets;
    if (!u || f->proto != IPPROTO_UDP || !f->has_ports || f->sport != (f->version == 4 ? u->port4 : u->port6)) return false;
    mh_endpoint to = {.family = f->version, .port = f->dport};
    memcpy(to.addr, f->dst, sizeof to.addr);
    mh_datapath *d = w->d;
    bool found = false;
    pthread_mutex_lock(&d->registry);
    for (size_t i = 0; i < d->n_peers && !found; i++) {
        mh_peer *p = d->peers[i];
        pthread_mutex_lock(&p->lock);
        to.scope = p->endpoint.scope;
        found = mh_endpoint_same(&p->endpoint, &to);
        pthread_mutex_unlock(&p->lock);
    }
    pthread_mutex_unlock(&d->registry);
    return found;
}

mh_peer *mh_route(const mh_snapshot *s, const mh_facts *f) {
    mh_peer *p = f->version == 4 ? mh_allowedips_find4(s->routes, f->dst) : mh_allowedips_find6(s->routes, f->dst);
    return p && !atomic_load_explicit(&p->removed, memory_order_relaxed) ? p : NULL;
}

/* Seals and sends what the burst holds. */
static void flush(mh_worker *w) {
    mh_burst *b = &w->burst;
    if (!b->n) return;
    mh_datapath *d = w->d;
    mh_peer *p = b->peer;
    const size_t n = b->n, runs = b->runs;
    b->n = b->runs = 0;
    b->used = 0;

    bool handshake = false, timers = false;
    if (mh_session_seal(b->session, b->jobs, n, w->now_ns) != n) {
        drop(w, MH_REASON_SESSION_EXPIRED, n);
        b->session = NULL;
        pthread_mutex_lock(&p->lock);
        handshake = mh_peer_ask_handshake(p);
        pthread_mutex_unlock(&p->lock);
        if (handshake) mh_push(d, MH_EVENT_HANDSHAKE, p);
        return;
    }
    pthread_mutex_lock(&p->lock);
    mh_endpoint to = p->endpoint;
    pthread_mutex_unlock(&p->lock);

    uint64_t packets = 0, bytes = 0;
    uint32_t calls = 0;
    for (size_t i = 0; i < runs; i++) {
        const mh_run *r = &b->run[i];
        const mh_udp_burst burst = {.data = w->wire + r->offset, .stride = r->stride, .total = r->total, .tos = r->tos};
        uint32_t sent = 0;
        int error = ENOTCONN;
        if (w->full)
            error = EAGAIN; /* one bounded wait a turn: a publisher may be waiting for its end */
        else if (w->sockets)
            error = mh_udp_send(w->sockets, &to, &burst, &sent, &calls);
        w->full = w->full || error == EAGAIN || error == ENOBUFS;
        const uint64_t went = error ? sent / r->stride : r->count;
        if (error) drop(w, MH_REASON_UDP_SEND, r->count - went);
        packets += went;
        bytes += sent;
    }
    atomic_fetch_add_explicit(&p->tx_bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->tx_packets, packets, memory_order_relaxed);
    mh_count(&w->work.udp_sends, calls);
    mh_count(&w->work.packets_out, packets);
    mh_count(&w->work.bytes_out, bytes - packets * MH_DATA_OVERHEAD);

    pthread_mutex_lock(&p->lock);
    mh_peer_learn(p, &to);
    if (packets) timers = mh_peer_note_sent(p, true, w->now_ns);
    handshake = mh_peer_renew_on_send(p, w->now_ns) && mh_peer_ask_handshake(p);
    pthread_mutex_unlock(&p->lock);
    if (timers) mh_push(d, MH_EVENT_TIMERS, p);
    if (handshake) mh_push(d, MH_EVENT_HANDSHAKE, p);
}

/* Lays the message in the wire buffer's next place into a run. */
static void add_to_run(mh_burst *b, uint32_t message, uint8_t tos) {
    mh_run *r = b->runs ? &b->run[b->runs - 1] : NULL;
    if (!r || r->closed || r->tos != tos || message > r->stride || r->count == MH_UDP_SEGMENTS ||
        r->total + message > MH_UDP_BURST_MAX) {
        r = &b->run[b->runs++];
        *r = (mh_run){.offset = b->used, .stride = message, .tos = tos};
    }
    r->closed = message < r->stride;
    r->total += message;
    r->count++;
}

static void append(mh_worker *w, mh_split *split, uint8_t tos, uint32_t mtu) {
    mh_burst *b = &w->burst;
    const uint32_t most = mh_padded(split->max_len, mtu) + MH_DATA_OVERHEAD;
    while (split->index < split->count) {
        if (b->n == MH_BATCH || b->used + most > MH_WIRE_BYTES) flush(w);
        if (!b->session) { /* the flush found it past its limits */
            drop(w, MH_REASON_SESSION_EXPIRED, split->count - split->index);
            return;
        }
        uint8_t *plain = w->wire + b->used + MH_DATA_HEADER_LEN;
        const uint32_t len = mh_split_next(split, plain), padded = mh_padded(len, mtu);
        memset(plain + len, 0, padded - len);
        b->jobs[b->n++] = (mh_aead_job){.data = plain, .len = padded};
        add_to_run(b, padded + MH_DATA_OVERHEAD, tos);
        b->used += padded + MH_DATA_OVERHEAD;
    }
    if (b->used >= BURST_ENOUGH) flush(w);
}

static void stage(mh_worker *w, mh_peer *p, mh_split *split, uint8_t tos, uint32_t mtu) {
    unsigned lost = 0;
    uint32_t len, calls = 0;
    bool handshake = false, timers = false;
    pthread_mutex_lock(&p->lock);
    while ((len = mh_split_next(split, w->scratch)) != 0) lost += mh_peer_stage(p, w->scratch, len, mh_padded(len, mtu), tos, false);
    if (mh_peer_sending(p, w->now_ns)) /* installed since aim() looked, and what was staged then is gone already */
        timers = mh_flush_staged(w->d, w->sockets, p, w->now_ns, &calls);
    else
        handshake = mh_peer_ask_handshake(p);
    pthread_mutex_unlock(&p->lock);
    mh_count(&w->work.udp_sends, calls);
    if (lost) drop(w, MH_REASON_STAGE_FULL, lost);
    if (timers) mh_push(w->d, MH_EVENT_TIMERS, p);
    if (handshake) mh_push(w->d, MH_EVENT_HANDSHAKE, p);
}

/* Makes p the burst's peer. 0, or why nothing can be sent to it; *may_stage then tells whether the packet may wait. */
static unsigned aim(mh_worker *w, mh_peer *p, bool *may_stage) {
    mh_burst *b = &w->burst;
    *may_stage = false;
    if (b->peer == p && b->session) return 0;
    flush(w);
    pthread_mutex_lock(&p->lock);
    const bool known = p->endpoint.family != 0;
    b->peer = p;
    b->session = known ? mh_peer_sending(p, w->now_ns) : NULL;
    pthread_mutex_unlock(&p->lock);
    if (b->session) return 0;
    *may_stage = known;
    return known ? MH_REASON_SESSION_EXPIRED : MH_REASON_NO_ENDPOINT;
}

/* One read. 0, or the errno for which the TUN is gone. */
static int packet_out(mh_worker *w, const mh_read *r, uint32_t *packets) {
    const mh_facts *f = &r->facts;
    const uint8_t *packet = r->packet;
    const size_t len = r->len;
    mh_split split;
    unsigned reason = r->reason;
    if (!reason) reason = (unsigned)mh_split_begin(&split, &r->header, packet, len, f);
    if (reason) {
        drop(w, reason, 1);
        ++*packets;
        return 0;
    }
    *packets += split.count;
    note_lane(w, f);
    const mh_decision *recalled = mh_recall(w, f);
    mh_peer *p = recalled ? recalled->peer : w->snapshot ? mh_route(w->snapshot, f) : NULL;
    const mh_verdict v = mh_worker_judge(w, f, recalled, p, split.count);
    if (!v.accept) {
        drop(w, v.reason, split.count);
        if (v.answer != MH_ANSWER_REJECT || own_outer(w, f) || !may_answer(w)) return 0;
        return answer(w, mh_reject(packet, len, f, w->scratch));
    }
    if (own_outer(w, f)) {
        drop(w, MH_REASON_LOOP, split.count);
        return 0;
    }

    const uint32_t mtu = atomic_load_explicit(&w->d->mtu, memory_order_relaxed);
    const uint8_t tos = f->tos & 3; /* RFC 6040 normal mode: the ECN field is copied out, DSCP stays inside */
    bool may_stage = false;
    if (mh_padded(split.max_len, mtu) + MH_DATA_OVERHEAD > MH_UDP_MAX)
        reason = MH_REASON_TOO_BIG;
    else
        reason = p ? aim(w, p, &may_stage) : MH_REASON_NO_PEER;
    if (!reason) {
        append(w, &split, tos, mtu);
        return 0;
    }
    if (may_stage) {
        stage(w, p, &split, tos, mtu);
        return 0;
    }
    drop(w, reason, split.count);
    if (reason == MH_REASON_TOO_BIG || !may_answer(w)) return 0;
    return answer(w, mh_icmp_unreachable(MH_UNREACHABLE_HOST, packet, len, f, w->scratch));
}

/* The next read into r. 1; 0: none now; or -errno: the TUN is gone. */
static int read_tun(mh_worker *w, mh_read *r) {
    const int n = mh_tun_read(&w->tun, &r->header, r->packet, MH_READ_BYTES);
    if (n <= 0) return n;
    mh_count(&w->work.tun_reads, 1);
    r->len = (uint32_t)n;
    r->reason = (unsigned)mh_parse(r->packet, r->len, &r->facts);
    r->facts.direction = MH_OUT;
    r->facts.iface_out = MH_TUNNEL;
    return 1;
}

int mh_outward(mh_worker *w) {
    mh_backlog *b = &w->backlog;
    uint32_t packets = 0, ahead = 0;
    int gone = 0;
    bool dry = false;
    w->burst.peer = NULL;
    w->burst.session = NULL;
    while (packets < MH_BUDGET && !gone) {
        const mh_read *waiting = mh_backlog_oldest(b);
        mh_read *r = dry || (waiting && ahead == AHEAD) ? NULL : mh_backlog_next(b);
        if (r) {
            const int n = read_tun(w, r);
            dry = n == 0;
            if (n < 0) gone = -n;
            if (n <= 0) continue;
            if (!r->reason && (r->header.gso_type != MH_VNET_GSO_NONE || mh_backlog_has_flow(b, &r->facts))) {
                mh_backlog_push(b);
            } else {
                gone = packet_out(w, r, &packets);
                ahead += waiting != NULL;
            }
        } else if (waiting) {
            gone = packet_out(w, waiting, &packets);
            mh_backlog_drop(b);
            dry = false;
            ahead = 0;
        } else {
            break;
        }
    }
    if (packets >= MH_BUDGET) w->more = true;
    flush(w);
    return gone;
}

bool mh_flush_staged(mh_datapath *d, mh_udp *sockets, mh_peer *p, uint64_t now_ns, uint32_t *calls) {
    mh_session *s = mh_peer_sending(p, now_ns);
    if (!s) return false;
    bool timers = false, full = false;
    mh_staged m;
    while (mh_peer_unstage(p, &m)) {
        mh_aead_job job = {.data = m.message + MH_DATA_HEADER_LEN, .len = m.padded};
        const uint32_t len = m.padded + MH_DATA_OVERHEAD;
        if (mh_session_seal(s, &job, 1, now_ns) != 1) {
            mh_drop(&d->drops, MH_REASON_SESSION_EXPIRED, 1);
        } else {
            const mh_udp_burst burst = {.data = m.message, .stride = len, .total = len, .tos = m.tos};
            uint32_t sent = 0;
            const int error = !sockets ? ENOTCONN : full ? EAGAIN : mh_udp_send(sockets, &p->endpoint, &burst, &sent, calls);
            full = full || error == EAGAIN || error == ENOBUFS; /* one bounded wait, as in flush() */
            if (error) {
                mh_drop(&d->drops, MH_REASON_UDP_SEND, 1);
            } else {
                atomic_fetch_add_explicit(&p->tx_bytes, len, memory_order_relaxed);
                atomic_fetch_add_explicit(&p->tx_packets, 1, memory_order_relaxed);
                timers |= mh_peer_note_sent(p, true, now_ns);
            }
        }
        free(m.message);
    }
    return timers;
}
