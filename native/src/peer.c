/* peer.c - slots, stage queue and traffic times of a peer. */
#include "peer.h"

#include <stdlib.h>

mh_peer *mh_peer_new(uint32_t id) {
    mh_peer *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->id = id;
    if (pthread_mutex_init(&p->lock, NULL) != 0) {
        free(p);
        return NULL;
    }
    return p;
}

void mh_peer_free(mh_peer *p) {
    if (!p) return;
    mh_session *sessions[3];
    const size_t n = mh_peer_take_all(p, sessions);
    for (size_t i = 0; i < n; i++) mh_session_free(sessions[i]);
    mh_staged s;
    while (mh_peer_unstage(p, &s)) free(s.message);
    free(p->staged);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

mh_session *mh_peer_sending(const mh_peer *p, uint64_t now_ns) {
    return p->current && mh_session_alive(p->current, now_ns) ? p->current : NULL;
}

bool mh_peer_ask_handshake(mh_peer *p) {
    const bool first = !p->handshake_asked;
    p->handshake_asked = true;
    return first;
}

static bool older(const mh_session *s, uint64_t age, uint64_t now_ns) {
    return mh_session_initiator(s) && now_ns >= mh_session_birth_ns(s) + age;
}

bool mh_peer_renew_on_send(const mh_peer *p, uint64_t now_ns) {
    return p->current &&
           (mh_session_sent(p->current) > MH_REKEY_AFTER_MESSAGES || older(p->current, MH_REKEY_AFTER_TIME_NS, now_ns));
}

bool mh_peer_renew_on_receive(const mh_peer *p, uint64_t now_ns) {
    const uint64_t age = MH_REJECT_AFTER_TIME_NS - MH_KEEPALIVE_TIMEOUT_NS - MH_REKEY_TIMEOUT_NS;
    return p->current && older(p->current, age, now_ns);
}

void mh_peer_confirm(mh_peer *p) {
    p->previous = p->current; /* it is empty: the install that put `next` in its slot has emptied it */
    p->current = p->next;
    p->next = NULL;
}

static size_t put_out(mh_session **out, size_t n, mh_session *s) {
    if (s) out[n++] = s;
    return n;
}

size_t mh_peer_install(mh_peer *p, mh_session *s, mh_session *out[2]) {
    size_t n = 0;
    if (mh_session_initiator(s)) {
        /* The response has confirmed it: usable at once. A `next` that was never confirmed steps back. */
        n = put_out(out, n, p->previous);
        if (p->next) {
            n = put_out(out, n, p->current);
            p->previous = p->next;
            p->next = NULL;
        } else {
            p->previous = p->current;
        }
        p->current = mh_session_ref(s);
    } else {
        n = put_out(out, n, p->next);
        n = put_out(out, n, p->previous);
        p->previous = NULL;
        p->next = mh_session_ref(s);
    }
    p->handshake_asked = false;
    return n;
}

size_t mh_peer_take_all(mh_peer *p, mh_session *out[3]) {
    size_t n = put_out(out, 0, p->current);
    n = put_out(out, n, p->next);
    n = put_out(out, n, p->previous);
    p->current = p->next = p->previous = NULL;
    p->handshake_asked = false;
    return n;
}

unsigned mh_peer_stage(mh_peer *p, const uint8_t *packet, uint32_t len, uint32_t padded, uint8_t tos, bool own) {
    if (!p->staged && !(p->staged = calloc(MH_STAGE_PACKETS, sizeof *p->staged))) return 1;
    uint8_t *message = malloc(MH_DATA_OVERHEAD + (size_t)padded);
    if (!message) return 1;
    memcpy(message + MH_DATA_HEADER_LEN, packet, len);
    memset(message + MH_DATA_HEADER_LEN + len, 0, padded - len);
    unsigned lost = 0;
    mh_staged oldest;
    while (p->staged_count == MH_STAGE_PACKETS || (p->staged_count && p->staged_bytes + padded > MH_STAGE_BYTES)) {
        mh_peer_unstage(p, &oldest);
        free(oldest.message);
        lost++;
    }
    mh_peer_restage(p, &(mh_staged){.message = message, .padded = padded, .tos = tos, .own = own});
    return lost;
}

void mh_peer_restage(mh_peer *p, const mh_staged *m) {
    p->staged[(p->staged_first + p->staged_count++) % MH_STAGE_PACKETS] = *m;
    p->staged_bytes += m->padded;
}

bool mh_peer_unstage(mh_peer *p, mh_staged *out) {
    if (!p->staged_count) return false;
    *out = p->staged[p->staged_first];
    p->staged_first = (p->staged_first + 1) % MH_STAGE_PACKETS;
    p->staged_count--;
    p->staged_bytes -= out->padded;
    return true;
}

void mh_peer_learn(mh_peer *p, const mh_endpoint *sent_to) {
    if (!mh_endpoint_same(&p->endpoint, sent_to)) return;
    p->endpoint.no_bursts = sent_to->no_bursts;
    if (!sent_to->local_family) p->endpoint.local_family = 0;
}

static bool arm(mh_peer *p) {
    if (p->timers_armed || !(p->times.unanswered_sent_ns || p->times.unacknowledged_received_ns)) return false;
    p->timers_armed = true;
    return true;
}

bool mh_peer_note_sent(mh_peer *p, bool data, uint64_t now_ns) {
    p->times.last_sent_ns = now_ns;
    p->times.unacknowledged_received_ns = 0;
    if (data) {
        p->times.last_data_sent_ns = now_ns;
        if (!p->times.unanswered_sent_ns) p->times.unanswered_sent_ns = now_ns;
    }
    return arm(p);
}

bool mh_peer_note_received(mh_peer *p, bool data, uint64_t now_ns) {
    p->times.last_received_ns = now_ns;
    p->times.unanswered_sent_ns = 0;
    if (data) {
        p->times.last_data_received_ns = now_ns;
        if (!p->times.unacknowledged_received_ns) p->times.unacknowledged_received_ns = now_ns;
    }
    return arm(p);
}
