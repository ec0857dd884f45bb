#define MH_ANSWER_MAX ...
enum mh_unreachable { MH_UNREACHABLE_HOST, MH_UNREACHABLE_PORT };
size_t mh_icmp_unreachable(enum mh_unreachable kind, const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out);
size_t mh_tcp_reset(const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out);
size_t mh_reject(const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out);
typedef struct {
    uint64_t credit_ns, last_ns;
} mh_bucket;
bool mh_bucket_take(mh_bucket *b, uint64_t now_ns, uint32_t per_second, uint32_t burst);
