typedef struct {
    uint8_t family;
    uint8_t local_family;
    uint16_t port;
    uint32_t scope;
    uint32_t ifindex;
    uint32_t no_bursts;
    uint8_t addr[16];
    uint8_t local[16];
} mh_endpoint;
