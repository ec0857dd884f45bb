typedef struct {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
} mh_vnet_hdr;
typedef struct {
    uint32_t count, max_len;
    ...;
} mh_split;
int mh_split_begin(mh_split *s, const mh_vnet_hdr *h, const uint8_t *packet, size_t len, const mh_facts *facts);
uint32_t mh_split_next(mh_split *s, uint8_t *out);

#define MH_JOIN_TCP4 ...
#define MH_JOIN_TCP6 ...
#define MH_JOIN_UDP4 ...
#define MH_JOIN_UDP6 ...
#define MH_JOIN_PACKETS ...
struct iovec {
    void *iov_base;
    size_t iov_len;
};
typedef struct {
    unsigned packets, units;
    ...;
} mh_join;
void mh_join_reset(mh_join *j, unsigned kinds);
bool mh_join_add(mh_join *j, uint8_t *packet, uint32_t len, const mh_facts *facts);
size_t mh_join_emit(mh_join *j, unsigned u, mh_vnet_hdr *h, struct iovec *iov);
