typedef struct mh_allowedips mh_allowedips;
typedef struct {
    uint8_t family;
    uint8_t cidr;
    uint8_t addr[16];
    void *owner;
} mh_prefix;

mh_allowedips *mh_allowedips_new(const mh_prefix *prefixes, size_t n);
void mh_allowedips_free(mh_allowedips *t);
void *mh_allowedips_find4(const mh_allowedips *t, const uint8_t *addr);
void *mh_allowedips_find6(const mh_allowedips *t, const uint8_t *addr);
