typedef struct mh_aead_key mh_aead_key;
typedef struct {
    uint8_t *data;
    uint32_t len;
    bool ok;
    uint64_t counter;
} mh_aead_job;

const char *mh_aead_kernel(void);
const char *mh_aead_complaint(void);
mh_aead_key *mh_aead_key_new(const uint8_t *key);
mh_aead_key *mh_aead_key_new_with(const char *kernel, const uint8_t *key);
void mh_aead_key_free(mh_aead_key *key);
size_t mh_aead_seal(mh_aead_key *key, mh_aead_job *jobs, size_t n);
size_t mh_aead_open(mh_aead_key *key, mh_aead_job *jobs, size_t n);
