/*
 * fuzz_capture.c - any bytes as a capture: nothing is read beyond them, the counts add up, what is written is pcapng.
 *
 * The first byte chooses what comes before the rest: nothing; a pcap header whose link type is the second byte's
 * choice, and the rest cut into records; or a pcapng section with an interface of it, and the rest in packet blocks.
 * Another bit feeds it in two pieces, which must not change a count.
 */
#include "../native/program.h"
#include "audit.h"

#define MUST(claim)  \
    do {             \
        if (!(claim)) \
            abort(); \
    } while (0)

static made_program m;
static uint8_t file[1 << 20];
static uint8_t *out;
#define OUT_SIZE (MH_CAPTURE_RECORD + 4096u)

static const uint16_t links[] = {0, 1, 12, 14, 101, 108, 113, 228, 229, 276, 7};

static size_t put(size_t at, const void *bytes, size_t n) {
    memcpy(file + at, bytes, n);
    return at + n;
}

static size_t put_u32(size_t at, uint32_t value) {
    mh_put32le(file + at, value);
    return at + 4;
}

/* The rest as frames: a length byte, then so many bytes; the original length is sometimes greater. */
static size_t make_file(int kind, uint16_t link, const uint8_t *data, size_t size) {
    size_t at = 0;
    if (kind == 1) {
        static const uint8_t magic[8] = {0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0};
        at = put(put_u32(put_u32(put_u32(put(0, magic, 8), 0), 0), 262144), &link, 2);
        at = put(at, "\0", 2);
    } else {
        at = put_u32(put_u32(put_u32(0, 0x0a0d0d0a), 28), 0x1a2b3c4d);
        at = put_u32(put_u32(put_u32(put_u32(at, 1), UINT32_MAX), UINT32_MAX), 28);
        at = put_u32(put_u32(at, 1), 32);
        at = put(put(at, &link, 2), "\0", 2);
        at = put_u32(put_u32(put(put_u32(put_u32(at, 0), 0x00030002), "wg0", 4), 0), 32);
        /* block: type, length, link, snaplen, name option (4 + 4), end of options, length */
    }
    while (size > 1 && at < sizeof file - 1024) {
        uint32_t n = data[0], more = n & 1 ? 40 : 0;
        data++, size--;
        if (n > size)
            n = (uint32_t)size;
        uint32_t padded = (n + 3) & ~3u;
        if (kind == 1)
            at = put(put_u32(put_u32(put_u32(put_u32(at, 5), 6), n), n + more), data, n);
        else {
            at = put_u32(put_u32(put_u32(put_u32(put_u32(at, 6), 32 + padded), 0), 1), 2);
            at = put(put_u32(put_u32(at, n), n + more), data, n);
            at = put(at, "\0\0\0", padded - n);
            at = put_u32(at, 32 + padded);
        }
        data += n;
        size -= n;
    }
    return at;
}

/* Whole blocks with matching lengths, of the two types that are written. */
static void check_written(const uint8_t *p, size_t len) {
    while (len) {
        MUST(len >= 12);
        uint32_t type = mh_get32le(p), total = mh_get32le(p + 4);
        MUST((type == 1 || type == 6) && total >= 12 && total % 4 == 0 && total <= len);
        MUST(mh_get32le(p + total - 4) == total);
        p += total;
        len -= total;
    }
}

static mh_audit_totals run(const uint8_t *bytes, size_t len, size_t split, bool leaks) {
    static const uint8_t local[34] = {4, 192, 168, 1, 5, [17] = 6, 0xfe, 0x80};
    mh_audit *a = mh_audit_new(m.bytes, m.len, local, 2, "wg0", (mh_sender){1, 0, 1});
    MUST(a);
    for (size_t from = 0; from <= len;) {
        size_t until = from < split ? split : len;
        uint8_t *copy = malloc(until - from + 1); /* a byte more only so that 0 bytes are a place */
        MUST(copy);
        memcpy(copy, bytes + from, until - from);
        copy = realloc(copy, until - from ? until - from : 1);
        MUST(copy);
        mh_fed fed;
        size_t used = 0;
        do {
            mh_audit_feed(a, copy + used, until - from - used, leaks ? out : NULL, OUT_SIZE, &fed);
            used += fed.consumed;
            MUST(used <= until - from && fed.written <= OUT_SIZE);
            check_written(out, fed.written);
        } while (fed.full);
        free(copy);
        if (until == len)
            break;
        from += used;
        split = 0;
    }
    mh_audit_totals t = mh_audit_total(a);
    uint64_t counted = 0, bytes_counted = 0;
    for (int i = 0; i < MH_SKIPS; i++)
        counted += t.skipped[i];
    for (unsigned rule = 0; rule <= t.rules; rule++)
        for (unsigned outcome = 0; outcome < MH_OUTCOMES; outcome++) {
            mh_tally row = mh_audit_row(a, rule, outcome);
            counted += row.packets;
            bytes_counted += row.bytes;
        }
    MUST(counted == t.packets && bytes_counted == t.bytes && t.leaks.packets <= t.packets);
    mh_audit_free(a);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3)
        return 0;
    if (!out) {
        out = malloc(OUT_SIZE);
        MUST(out);
        uint64_t seed = 3;
        make_program(&m, &seed, 40, 8);
    }
    const uint8_t *bytes = data + 3;
    size_t len = size - 3;
    int kind = data[0] % 3;
    if (kind) {
        len = make_file(kind, links[data[1] % (sizeof links / sizeof links[0])], bytes, len);
        bytes = file;
    }
    mh_audit_totals whole = run(bytes, len, 0, true);
    MUST(kind == 0 || whole.packets > 0 || size < 5);
    if (data[0] & 8) {
        mh_audit_totals pieces = run(bytes, len, len * data[2] / 256, false);
        MUST(pieces.packets == whole.packets && pieces.bytes == whole.bytes && pieces.leaks.packets == whole.leaks.packets);
    }
    return 0;
}
