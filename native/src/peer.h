/*
 * peer.h - what the datapath knows of a peer: its endpoint, its three keypair slots, what waits for a handshake,
 * and when it was last heard.
 *
 * Ownership: the datapath owns peers; each slot holds a reference of its session. A session that leaves its slot is
 * handed to the caller, who frees it only after a quiescent point. Threads: everything is under `lock` but the four
 * byte and packet counters, and what is marked as the datapath's. No other lock of the datapath is taken while holding it, and nobody waits for a
 * quiescent point while holding it.
 */
#ifndef MH_PEER_H
#define MH_PEER_H

#include <pthread.h>
#include <stdatomic.h>

#include "endpoint.h"
#include "session.h"

#define MH_STAGE_PACKETS 128 /* kernel WireGuard's MAX_STAGED_PACKETS */
#define MH_STAGE_BYTES (256 * 1024)

typedef struct {
    uint8_t *message; /* header room, packet and padding, tag room */
    uint32_t padded; /* length of packet and padding */
    uint8_t tos;
    bool own; /* the engine's, which no policy judges */
} mh_staged;

typedef struct {
    uint64_t rx_bytes, tx_bytes, rx_packets, tx_packets;
    uint64_t last_data_sent_ns, last_data_received_ns, last_sent_ns, last_received_ns;
    uint64_t unanswered_sent_ns;        /* first data packet sent since anything authentic came; 0: none */
    uint64_t unacknowledged_received_ns; /* first data packet received since anything was sent; 0: none */
} mh_traffic;

typedef struct mh_peer {
    uint32_t id;
    atomic_bool removed; /* no longer a peer; freed once no snapshot leads here */
    bool routed;         /* under control: the snapshot still leads here */
    size_t place;        /* under registry: where the datapath's array has it */
    unsigned unsent_events;      /* under registry: bits 1 << kind, for which the ring had no room */
    struct mh_peer *next_unsent; /* under registry: the next one that has such events */
    _Atomic uint64_t rx_bytes, tx_bytes, rx_packets, tx_packets;

    pthread_mutex_t lock;
    mh_endpoint endpoint;
    mh_session *current, *next, *previous;
    uint64_t newest_birth_ns, newest_counter; /* of the newest authentic message: it alone moves the endpoint */
    bool newest_any;
    bool handshake_asked, timers_armed;
    mh_traffic times; /* the time fields only */
    mh_staged *staged; /* ring of MH_STAGE_PACKETS, allocated at the first need */
    unsigned staged_first, staged_count;
    size_t staged_bytes;
} mh_peer;

mh_peer *mh_peer_new(uint32_t id); /* NULL: no memory */
void mh_peer_free(mh_peer *p);     /* also drops the references of its slots and its staged packets */

/* All below: caller holds p->lock. */

/* The session to send under, or NULL when there is none alive. */
mh_session *mh_peer_sending(const mh_peer *p, uint64_t now_ns);

/* Should Python be asked for a handshake? Once until it answers. sent / received decide which ages count (paper 6.2). */
bool mh_peer_ask_handshake(mh_peer *p);
bool mh_peer_renew_on_send(const mh_peer *p, uint64_t now_ns);
bool mh_peer_renew_on_receive(const mh_peer *p, uint64_t now_ns);

/* First authentic message under `next`: next -> current -> previous. */
void mh_peer_confirm(mh_peer *p);

/* Puts a new session in its slot and fills out[0..2) with those that left (their references pass to the caller). Takes a
 * reference. Returns how many left. */
size_t mh_peer_install(mh_peer *p, mh_session *s, mh_session *out[2]);
size_t mh_peer_take_all(mh_peer *p, mh_session *out[3]); /* empties every slot */

/* Keeps a message of `len` plain bytes with its padding. Returns how many older ones (or itself) were pushed out. */
unsigned mh_peer_stage(mh_peer *p, const uint8_t *packet, uint32_t len, uint32_t padded, uint8_t tos, bool own);
bool mh_peer_unstage(mh_peer *p, mh_staged *out); /* the oldest one; free(out->message) is the caller's */
void mh_peer_restage(mh_peer *p, const mh_staged *m); /* one just taken, behind all others */

/* After a send to a copy of the endpoint: keeps what the send learnt, if the peer has not moved meanwhile. */
void mh_peer_learn(mh_peer *p, const mh_endpoint *sent_to);

/* Note traffic; true: push one TIMERS event (and it is now armed). */
bool mh_peer_note_sent(mh_peer *p, bool data, uint64_t now_ns);
bool mh_peer_note_received(mh_peer *p, bool data, uint64_t now_ns);

#endif
