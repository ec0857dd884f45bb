typedef struct mh_audit mh_audit;
typedef struct {
    uint32_t mark, uid;
    uint8_t app;
    ...;
} mh_sender;
#define MH_CAPTURE_RECORD ...
#define MH_CAPTURE_NAME ...
#define MH_CAPTURE_MORE ...
#define MH_CAPTURE_BLOCK ...
#define MH_CAPTURE_PACKET ...
#define MH_CAPTURE_DAMAGED ...
#define MH_SKIPS ...
#define MH_OUTCOMES ...
typedef struct {
    uint64_t number, time_ns;
    int result;
    uint8_t skip, outcome, direction;
    uint16_t rule;
    bool readable;
    mh_facts facts;
    uint32_t bytes;
    ...;
} mh_step;
typedef struct {
    size_t consumed, written;
    bool full;
    ...;
} mh_fed;
typedef struct {
    uint64_t packets, bytes;
    ...;
} mh_tally;
typedef struct {
    uint64_t packets, bytes;
    mh_tally leaks;
    uint64_t skipped[...];
    uint64_t forgotten;
    uint16_t rules;
    bool begun;
    const char *problem;
    ...;
} mh_audit_totals;
typedef struct {
    uint8_t src[16], dst[16];
    uint16_t sport, dport;
    uint8_t proto, version, direction, iface;
    uint64_t packets, bytes;
    ...;
} mh_flow;
mh_audit *mh_audit_new(const uint8_t *program, size_t len, const uint8_t *local, size_t n, const char *tunnel, mh_sender sender);
void mh_audit_free(mh_audit *a);
bool mh_audit_set_comments(mh_audit *a, const char *text, const uint32_t *starts);
void mh_audit_step(mh_audit *a, const uint8_t *data, size_t len, size_t *consumed, mh_step *s);
void mh_audit_feed(mh_audit *a, const uint8_t *data, size_t len, uint8_t *out, size_t out_size, mh_fed *fed);
mh_audit_totals mh_audit_total(const mh_audit *a);
mh_tally mh_audit_row(const mh_audit *a, unsigned rule, unsigned outcome);
size_t mh_audit_top(const mh_audit *a, unsigned rule, unsigned outcome, mh_flow *flows, size_t n);
