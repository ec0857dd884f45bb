typedef struct {
    uint8_t version, proto, fragment;
    bool has_ports, has_icmp;
    uint8_t icmp_type, icmp_code, tos;
    uint16_t sport, dport, header_len;
    uint32_t total_len, frag_id, frag_offset, frag_len;
    bool more_fragments;
    uint8_t src[16], dst[16];
    uint8_t direction, iface_in, iface_out;
    bool reply, has_uid;
    uint8_t app;
    uint32_t uid, mark;
    ...;
} mh_facts;
bool mh_facts_alike(const mh_facts *a, const mh_facts *b);
int mh_parse(const uint8_t *packet, size_t len, mh_facts *facts);
