typedef ... mh_datapath;
typedef ... mh_peer;
typedef struct {
    uint64_t rx_bytes, tx_bytes, rx_packets, tx_packets;
    uint64_t last_data_sent_ns, last_data_received_ns, last_sent_ns, last_received_ns;
    uint64_t unanswered_sent_ns;
    uint64_t unacknowledged_received_ns;
} mh_traffic;
mh_datapath *mh_datapath_new(const int *tun_fds, unsigned n, bool vnet_hdr, unsigned tun_offloads, unsigned mtu, int *error);
void mh_datapath_free(mh_datapath *d);
int mh_datapath_start(mh_datapath *d);
void mh_datapath_stop(mh_datapath *d);
int mh_datapath_turn(mh_datapath *d);
int mh_datapath_set_sockets(mh_datapath *d, const int *udp4, const int *udp6, bool offload);
void mh_datapath_set_mtu(mh_datapath *d, unsigned mtu);
int mh_datapath_set_public_key(mh_datapath *d, const uint8_t *key);
int mh_datapath_publish(mh_datapath *d, const uint8_t *code, size_t len, const mh_prefix *routes, size_t n,
                        uint64_t *packets, uint64_t *bytes, size_t room);
typedef struct {
    uint32_t id;
    mh_endpoint endpoint;
    mh_traffic traffic;
} mh_peer_facts;
size_t mh_datapath_peers(mh_datapath *d, mh_peer_facts *out, size_t room);
mh_peer *mh_datapath_add_peer(mh_datapath *d);
void mh_datapath_remove_peer(mh_datapath *d, mh_peer *p);
int mh_datapath_send(mh_datapath *d, const mh_endpoint *to, const uint8_t *data, size_t len, mh_peer *peer);
void mh_datapath_expect_probe(mh_datapath *d, int ident);
int mh_datapath_event_fd(const mh_datapath *d);
bool mh_datapath_event(mh_datapath *d, mh_event *e);
uint32_t mh_peer_id(const mh_peer *p);
void mh_peer_get_endpoint(mh_peer *p, mh_endpoint *out);
void mh_peer_set_endpoint(mh_peer *p, const mh_endpoint *e);
void mh_peer_get_traffic(mh_peer *p, mh_traffic *out);
void mh_peer_disarm(mh_peer *p);
void mh_peer_handshake_done(mh_peer *p);
int mh_peer_install_session(mh_datapath *d, mh_peer *p, mh_session *s);
void mh_peer_erase_keys(mh_datapath *d, mh_peer *p);
size_t mh_peer_drop_staged(mh_datapath *d, mh_peer *p);
int mh_peer_send_packet(mh_datapath *d, mh_peer *p, const uint8_t *packet, size_t len);
size_t mh_datapath_verdicts(mh_datapath *d, uint64_t *packets, uint64_t *bytes, size_t room);
size_t mh_datapath_drops(const mh_datapath *d, uint64_t *by_reason, size_t room);
typedef struct {
    uint64_t tun_reads, tun_writes, udp_sends, udp_receives, packets_out, bytes_out, packets_in, bytes_in, turns;
} mh_statistics;
void mh_datapath_statistics(const mh_datapath *d, mh_statistics *out);
void mh_datapath_wake(mh_datapath *d);
size_t mh_datapath_turns(const mh_datapath *d, uint64_t *by_worker, size_t room);
typedef struct {
    bool vnet_hdr, tso4, tso6, uso4, uso6, udp_segment, udp_gro;
} mh_offloads;
void mh_datapath_offloads(mh_datapath *d, mh_offloads *out);
