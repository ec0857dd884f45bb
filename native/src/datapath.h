/*
 * datapath.h - one TUN device, its outer sockets, and the threads that carry packets between them.
 *
 * Order of events: new -> set_sockets, add_peer, publish (any order, any time) -> start -> ... -> stop -> free.
 * Ownership: the datapath duplicates the TUN descriptor; sockets stay the caller's, who may close replaced ones when
 * set_sockets() has returned. Peers belong to the datapath from add_peer() to remove_peer(). Threads: every call may
 * come from any thread but the datapath's own; they take turns. Errors are errno values, 0 is success.
 */
#ifndef MH_DATAPATH_H
#define MH_DATAPATH_H

#include "allowedips.h"
#include "endpoint.h"
#include "peer.h"
#include "ring.h"
#include "session.h"

typedef struct mh_datapath mh_datapath;

/* tun_fds: n queues of the device (1 to 16), each of which gets a thread. tun_offloads: the TUN_F_* bits the device
 * accepted. NULL and *error: no memory, a bad descriptor. */
mh_datapath *mh_datapath_new(const int *tun_fds, unsigned n, bool vnet_hdr, unsigned tun_offloads, unsigned mtu, int *error);
void mh_datapath_free(mh_datapath *d);
int mh_datapath_start(mh_datapath *d);
void mh_datapath_stop(mh_datapath *d);

/* One turn of both directions in the caller's thread, while none is running (tests). EBUSY, or why the TUN is gone. */
int mh_datapath_turn(mh_datapath *d);

/* One of each family (or -1) for each of the n. */
int mh_datapath_set_sockets(mh_datapath *d, const int *udp4, const int *udp6, bool offload);
void mh_datapath_set_mtu(mh_datapath *d, unsigned mtu);

/* Our public key: initiations and responses are dropped unless the sender knew it, and under load answered with a
 * cookie unless they bring one (guard.h). NULL: none is checked. */
int mh_datapath_set_public_key(mh_datapath *d, const uint8_t *key);

/* Replaces program (NULL: no policy, all is dropped) and routes as one. When it returns, no packet is judged by the
 * former ones any more, and the former rules' final counts are in packets[] and bytes[] (room entries at most). Staged packets
 * are judged and routed anew: what the new ones do not let go to the same peer is dropped.
 * Returns the number of former rules, or -errno (-EINVAL: not a program, or a bad prefix) with nothing changed.
 * The owners of the prefixes are mh_peers of this datapath. */
int mh_datapath_publish(mh_datapath *d, const uint8_t *code, size_t len, const mh_prefix *routes, size_t n,
                        uint64_t *packets, uint64_t *bytes, size_t room);

/* What there is to tell of every peer, in one call. Returns how many peers there are; at most `room` are told. */
typedef struct {
    uint32_t id;
    mh_endpoint endpoint;
    mh_traffic traffic;
} mh_peer_facts;
size_t mh_datapath_peers(mh_datapath *d, mh_peer_facts *out, size_t room);

mh_peer *mh_datapath_add_peer(mh_datapath *d); /* NULL: no memory */
void mh_datapath_remove_peer(mh_datapath *d, mh_peer *p);

/* Handshake and cookie messages. peer (or NULL) is who they are counted for. */
int mh_datapath_send(mh_datapath *d, const mh_endpoint *to, const uint8_t *data, size_t len, mh_peer *peer);
void mh_datapath_expect_probe(mh_datapath *d, int ident); /* -1: none */

int mh_datapath_event_fd(const mh_datapath *d);
bool mh_datapath_event(mh_datapath *d, mh_event *e); /* false: none */

uint32_t mh_peer_id(const mh_peer *p);
void mh_peer_get_endpoint(mh_peer *p, mh_endpoint *out);
void mh_peer_set_endpoint(mh_peer *p, const mh_endpoint *e);
void mh_peer_get_traffic(mh_peer *p, mh_traffic *out);
void mh_peer_disarm(mh_peer *p);
void mh_peer_handshake_done(mh_peer *p);
int mh_peer_install_session(mh_datapath *d, mh_peer *p, mh_session *s); /* EEXIST: the local index is taken */
void mh_peer_erase_keys(mh_datapath *d, mh_peer *p);
size_t mh_peer_drop_staged(mh_datapath *d, mh_peer *p); /* counted as STAGE_EXPIRED */
/* The engine's own packet, past the policy; len 0 is a keepalive. ENOKEY: no session, and a packet (no keepalive) now waits
 * for one. */
int mh_peer_send_packet(mh_datapath *d, mh_peer *p, const uint8_t *packet, size_t len);

/* Counters, as of now. The first two fill at most room entries and return how many there are. */
size_t mh_datapath_verdicts(mh_datapath *d, uint64_t *packets, uint64_t *bytes, size_t room);
size_t mh_datapath_drops(const mh_datapath *d, uint64_t *by_reason, size_t room);
typedef struct {
    uint64_t tun_reads, tun_writes, udp_sends, udp_receives, packets_out, bytes_out, packets_in, bytes_in, turns;
} mh_statistics;
void mh_datapath_statistics(const mh_datapath *d, mh_statistics *out);
void mh_datapath_wake(mh_datapath *d); /* asks each thread for a turn */
size_t mh_datapath_turns(const mh_datapath *d, uint64_t *by_worker, size_t room); /* made so far; returns how many workers */
typedef struct {
    bool vnet_hdr, tso4, tso6, uso4, uso6, udp_segment, udp_gro;
} mh_offloads;
void mh_datapath_offloads(mh_datapath *d, mh_offloads *out);

#endif
