/*
 * mh.h - what every C module shares: sizes of the protocol, byte order, clocks, wiping.
 *
 * Ownership and threads: nothing here has state. All modules are plain C11 + Linux; none includes Python.h, so the
 * same sources build into the Python module, the sanitizer tests and the fuzz targets.
 */
#ifndef MH_H
#define MH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

/* Constants of the WireGuard paper, section 6.5 and 5.4 (times in ns). The Python twin is engine/wg/constants.py. */
#define MH_REJECT_AFTER_TIME_NS UINT64_C(180000000000)
#define MH_REKEY_AFTER_TIME_NS UINT64_C(120000000000)
#define MH_KEEPALIVE_TIMEOUT_NS UINT64_C(10000000000)
#define MH_REKEY_TIMEOUT_NS UINT64_C(5000000000)
#define MH_REKEY_AFTER_MESSAGES (UINT64_C(1) << 60)
#define MH_REJECT_AFTER_MESSAGES (UINT64_MAX - (UINT64_C(1) << 13))

#define MH_KEY_LEN 32
#define MH_TAG_LEN 16
#define MH_DATA_HEADER_LEN 16 /* type, reserved, receiver index, counter */
#define MH_DATA_OVERHEAD (MH_DATA_HEADER_LEN + MH_TAG_LEN)
#define MH_MAX_PACKET 65535

static inline uint16_t mh_get16be(const uint8_t *p) { return (uint16_t)((p[0] << 8) | p[1]); }
static inline uint32_t mh_get32be(const uint8_t *p) {
    return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | (uint32_t)p[3];
}
static inline void mh_put16be(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void mh_put32be(uint8_t *p, uint32_t v) {
    mh_put16be(p, (uint16_t)(v >> 16));
    mh_put16be(p + 2, (uint16_t)v);
}
static inline uint32_t mh_get32le(const uint8_t *p) {
    return (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
}
static inline uint64_t mh_get64le(const uint8_t *p) {
    return (uint64_t)mh_get32le(p) | ((uint64_t)mh_get32le(p + 4) << 32);
}
static inline void mh_put32le(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}
static inline void mh_put64le(uint8_t *p, uint64_t v) {
    mh_put32le(p, (uint32_t)v);
    mh_put32le(p + 4, (uint32_t)(v >> 32));
}

/* The one clock of the datapath: boot time, so that a suspended machine ages its keys (as the kernel does). */
static inline uint64_t mh_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* memset that the compiler may not drop. */
static inline void mh_wipe(void *p, size_t n) { explicit_bzero(p, n); }

#endif
