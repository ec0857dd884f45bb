#define MH_DATA_HEADER_LEN 16
#define MH_DATA_OVERHEAD 32
#define MH_TAG_LEN 16
#define MH_MAX_PACKET 65535

typedef struct mh_session mh_session;
mh_session *mh_session_new(const uint8_t *chaining_key, bool initiator, uint32_t local_index, uint32_t remote_index,
                           uint64_t birth_ns);
mh_session *mh_session_ref(mh_session *s);
void mh_session_free(mh_session *s);
uint32_t mh_session_local_index(const mh_session *s);
uint32_t mh_session_remote_index(const mh_session *s);
uint64_t mh_session_birth_ns(const mh_session *s);
bool mh_session_initiator(const mh_session *s);
uint64_t mh_session_sent(const mh_session *s);
bool mh_session_alive(const mh_session *s, uint64_t now_ns);
size_t mh_session_seal(mh_session *s, mh_aead_job *jobs, size_t n, uint64_t now_ns);
size_t mh_session_open(mh_session *s, mh_aead_job *jobs, uint8_t *reasons, size_t n, uint64_t now_ns);
bool mh_data_header_get(const uint8_t *message, size_t len, uint32_t *receiver, uint64_t *counter);
