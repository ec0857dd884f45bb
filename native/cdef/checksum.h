uint64_t mh_sum(uint64_t sum, const uint8_t *data, size_t n);
uint64_t mh_sum_copy(uint64_t sum, uint8_t *out, const uint8_t *data, size_t n);
uint16_t mh_sum_fold(uint64_t sum);
void mh_set_ecn(uint8_t *packet, uint8_t ecn);
