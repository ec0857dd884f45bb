/*
 * verdict.c - loads the flat program (verdict.h has its layout) and runs it.
 *
 * Loading checks every field, then lays the dimensions out for speed. What hardly varies (context, origin, no mark, no
 * owner) becomes one row for each context and origin, and protocols one row each. Ports and ICMP types, where every
 * packet falls elsewhere, are two tables of bytes: no search and no branch that could be mispredicted. Addresses and
 * marks are sorted starts with a hint for each top byte: most need no search, the rest one without branches.
 * Judging gathers one row of rule bits a dimension and takes the lowest rule that is in all of them.
 */
#include "verdict.h"

#include <stdlib.h>

__extension__ typedef unsigned __int128 u128;

/* The intervals that values of one top byte can fall in. */
typedef struct {
    uint16_t first, count;
} hint;

/* Values of 32 bits. Sorted starts, starts[0] = 0; the row of interval i is at rows + i * words. */
typedef struct {
    uint32_t *starts;
    uint64_t *rows;
    hint hints[256];
} intervals;

typedef struct {
    u128 *starts;
    uint64_t *rows;
    hint hints[256];
} intervals6;

/* Values of 16 bits: cells hold the interval of a value. upper[top byte] is where in cells, times 256, plus a mask for
 * the lower byte: 255 for a page of 256 cells, 0 for the one cell of a top byte that lies in one interval. */
typedef struct {
    uint32_t upper[256];
    uint16_t *cells;
    uint64_t *rows;
} table16;

#define PROTOCOLS 512u
#define ORIGINS 6u
#define PLAINS (MH_CONTEXTS * ORIGINS)
#define CELLS 64u /* 64-bit words of 256 cells */

struct mh_program {
    uint16_t rules;
    uint16_t words;
    uint64_t fingerprint;
    uint64_t *plain;    /* PLAINS rows: for context * ORIGINS + origin, whoever the owner and whatever the mark is */
    uint64_t *unowned;  /* PLAINS rows: the same, of packets without an owner and a mark */
    uint64_t *protocol; /* PROTOCOLS rows */
    table16 sport, dport, icmp;
    intervals mark, uid, src4, dst4;
    intervals6 src6, dst6;
    uint64_t *no_sport, *no_dport, *no_icmp, *no_uid; /* the rows of the absent values */
    uint64_t *some_protocol6, *every_protocol6;       /* rules that hold for some / for every IPv6 protocol */
    uint64_t *accept;                                 /* a row: the rules that accept */
    mh_verdict verdicts[2][MH_MAX_RULES];             /* [inward][rule]: what a rule says */
    uint64_t arena[];
};

#define INLINE __attribute__((always_inline)) static inline

#define ACCEPT 1u
#define REJECT 2u

/* ---- loading ---- */

typedef struct {
    const uint8_t *at, *end;
} reader;

typedef struct {
    uint64_t count;
    unsigned width;        /* bytes of a start */
    const uint8_t *starts; /* count * width */
    const uint8_t *rows;   /* count * words * 8 */
} dimension;

static const struct {
    unsigned width;
    uint64_t greatest; /* start that makes sense; IPv6 addresses have no bound */
} dimensions[MH_DIMENSIONS] = {
    [MH_DIM_CONTEXT] = {8, MH_CONTEXTS - 1},
    [MH_DIM_PROTOCOL] = {8, PROTOCOLS - 1},
    [MH_DIM_ORIGIN] = {8, ORIGINS - 1},
    [MH_DIM_SPORT] = {8, 65536},
    [MH_DIM_DPORT] = {8, 65536},
    [MH_DIM_ICMP] = {8, 65536},
    [MH_DIM_MARK] = {8, UINT32_MAX},
    [MH_DIM_UID] = {8, UINT64_C(1) << 32},
    [MH_DIM_SRC4] = {8, UINT32_MAX},
    [MH_DIM_DST4] = {8, UINT32_MAX},
    [MH_DIM_SRC6] = {16, 0},
    [MH_DIM_DST6] = {16, 0},
};

static u128 start_of(const dimension *d, uint64_t i) {
    const uint8_t *p = d->starts + i * d->width;
    return d->width == 8 ? mh_get64le(p) : (u128)mh_get64le(p) << 64 | mh_get64le(p + 8);
}

static uint64_t word_of(const dimension *d, uint64_t i, unsigned words, unsigned w) {
    return mh_get64le(d->rows + (i * words + w) * 8);
}

/* One dimension, checked: ascending from 0, within its range, no bit beyond the rules, the last rule everywhere. */
static bool read_dimension(reader *r, int which, unsigned rules, unsigned words, dimension *d) {
    size_t left = (size_t)(r->end - r->at);
    if (left < 8)
        return false;
    d->count = mh_get64le(r->at);
    d->width = dimensions[which].width;
    size_t each = d->width + (size_t)words * 8;
    if (d->count == 0 || d->count > UINT16_MAX || d->count > (left - 8) / each)
        return false;
    d->starts = r->at + 8;
    d->rows = d->starts + d->count * d->width;
    r->at = d->rows + d->count * words * 8;

    unsigned last = (rules - 1) % 64;
    uint64_t inside = last == 63 ? UINT64_MAX : (UINT64_C(1) << (last + 1)) - 1; /* of the last word */
    if (start_of(d, 0) != 0)
        return false;
    for (uint64_t i = 0; i < d->count; i++) {
        if (i && start_of(d, i) <= start_of(d, i - 1))
            return false;
        if (d->width == 8 && start_of(d, i) > dimensions[which].greatest)
            return false;
        uint64_t word = word_of(d, i, words, words - 1);
        if ((word & ~inside) || !(word >> last & 1))
            return false;
    }
    return true;
}

static uint64_t *take(uint64_t **arena, uint64_t words) {
    uint64_t *p = *arena;
    *arena += words;
    return p;
}

/* values rows, one for each value: small dimensions. */
static uint64_t *spread(uint64_t **arena, const dimension *d, unsigned words, uint64_t values) {
    uint64_t *rows = take(arena, values * words);
    uint64_t i = 0;
    for (uint64_t value = 0; value < values; value++) {
        while (i + 1 < d->count && start_of(d, i + 1) <= value)
            i++;
        for (unsigned w = 0; w < words; w++)
            rows[value * words + w] = word_of(d, i, words, w);
    }
    return rows;
}

static uint64_t *copy_rows(uint64_t **arena, const dimension *d, unsigned words) {
    uint64_t *rows = take(arena, d->count * words);
    for (uint64_t i = 0; i < d->count; i++)
        for (unsigned w = 0; w < words; w++)
            rows[i * words + w] = word_of(d, i, words, w);
    return rows;
}

static void fill_hints(hint hints[256], const dimension *d, unsigned shift) {
    uint64_t i = 0;
    for (unsigned top = 0; top < 256; top++) {
        u128 first = (u128)top << shift, last = first | (((u128)1 << shift) - 1);
        while (i + 1 < d->count && start_of(d, i + 1) <= first)
            i++;
        uint64_t end = i + 1;
        while (end < d->count && start_of(d, end) <= last)
            end++;
        hints[top] = (hint){(uint16_t)i, (uint16_t)(end - i)};
    }
}

/* The absent value lies beyond the others: it is the greatest, so the last row is its row. */
static uint64_t *absent(uint64_t *rows, const dimension *d, unsigned words) { return rows + (d->count - 1) * words; }

static void lay_out(intervals *t, uint64_t **arena, const dimension *d, unsigned words) {
    t->starts = (uint32_t *)take(arena, (d->count + 1) / 2);
    for (uint64_t i = 0; i < d->count; i++)
        t->starts[i] = (uint32_t)start_of(d, i); /* 2^32, the absent uid's, is cut off, but no hint leads there */
    t->rows = copy_rows(arena, d, words);
    fill_hints(t->hints, d, 24);
}

/* At most this many pages: one for each top byte that an interval begins in, and the cells of the others. */
static uint64_t pages16(const dimension *d) { return 1 + (d->count < 256 ? d->count : 256); }

static void lay_out16(table16 *t, uint64_t **arena, const dimension *d, unsigned words) {
    t->cells = (uint16_t *)take(arena, pages16(d) * CELLS);
    t->rows = copy_rows(arena, d, words);
    uint64_t i = 0;
    uint32_t page = 256; /* the first page is that of the one-cell top bytes */
    for (uint32_t top = 0; top < 256; top++) {
        while (i + 1 < d->count && start_of(d, i + 1) <= top << 8)
            i++;
        const bool one = i + 1 == d->count || start_of(d, i + 1) > (top << 8 | 255);
        t->upper[top] = one ? top << 8 : page << 8 | 255;
        if (one) {
            t->cells[top] = (uint16_t)i;
            continue;
        }
        for (uint32_t low = 0; low < 256; low++) {
            while (i + 1 < d->count && start_of(d, i + 1) <= (top << 8 | low))
                i++;
            t->cells[page + low] = (uint16_t)i;
        }
        page += 256;
    }
}

static void lay_out6(intervals6 *t, uint64_t **arena, const dimension *d, unsigned words) {
    t->starts = (u128 *)(void *)take(arena, d->count * 2);
    for (uint64_t i = 0; i < d->count; i++)
        t->starts[i] = start_of(d, i);
    t->rows = copy_rows(arena, d, words);
    fill_hints(t->hints, d, 120);
}

mh_program *mh_program_load(const uint8_t *bytes, size_t len) {
    if (!bytes || len < 16 || len > UINT32_MAX || memcmp(bytes, "MHVP", 4) != 0)
        return NULL;
    unsigned version = bytes[4] | (unsigned)bytes[5] << 8;
    unsigned rules = bytes[6] | (unsigned)bytes[7] << 8;
    unsigned words = bytes[8] | (unsigned)bytes[9] << 8;
    unsigned count = bytes[10] | (unsigned)bytes[11] << 8;
    if (version != MH_PROGRAM_VERSION || rules == 0 || rules > MH_MAX_RULES || words != (rules + 63) / 64 ||
        count != MH_DIMENSIONS || mh_get32le(bytes + 12) != len)
        return NULL;

    reader r = {bytes + 16, bytes + len};
    size_t flags = ((size_t)rules + 7) / 8 * 8;
    if ((size_t)(r.end - r.at) < flags)
        return NULL;
    for (size_t i = 0; i < flags; i++) {
        uint8_t flag = r.at[i];
        if (i >= rules ? flag != 0 : flag > REJECT)
            return NULL;
    }
    if (r.at[rules - 1] & ACCEPT)
        return NULL;
    r.at += flags;

    dimension d[MH_DIMENSIONS];
    uint64_t need = (MH_CONTEXTS + PROTOCOLS + ORIGINS + 2 * PLAINS + 8) * words;
    for (int i = 0; i < MH_DIMENSIONS; i++) {
        if (!read_dimension(&r, i, rules, words, &d[i]))
            return NULL;
        if (i > MH_DIM_ORIGIN)
            need += d[i].count * (words + d[i].width / 8) + 1;
        if (i == MH_DIM_SPORT || i == MH_DIM_DPORT || i == MH_DIM_ICMP)
            need += pages16(&d[i]) * CELLS;
    }
    if (r.at != r.end)
        return NULL;

    mh_program *p = NULL;
    size_t size = (sizeof *p + need * sizeof(uint64_t) + 16 + 63) / 64 * 64;
    p = aligned_alloc(64, size);
    if (!p)
        return NULL;
    memset(p, 0, size);
    p->rules = (uint16_t)rules;
    p->words = (uint16_t)words;
    p->fingerprint = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        p->fingerprint = (p->fingerprint ^ bytes[i]) * UINT64_C(0x100000001b3);

    uint64_t *arena = p->arena;
    arena += ((uintptr_t)arena % 16) / 8; /* the 128-bit starts come first, aligned */
    lay_out6(&p->src6, &arena, &d[MH_DIM_SRC6], words);
    arena += ((uintptr_t)arena % 16) / 8;
    lay_out6(&p->dst6, &arena, &d[MH_DIM_DST6], words);
    const uint64_t *context = spread(&arena, &d[MH_DIM_CONTEXT], words, MH_CONTEXTS);
    const uint64_t *origin = spread(&arena, &d[MH_DIM_ORIGIN], words, ORIGINS);
    p->protocol = spread(&arena, &d[MH_DIM_PROTOCOL], words, PROTOCOLS);
    lay_out(&p->src4, &arena, &d[MH_DIM_SRC4], words);
    lay_out(&p->dst4, &arena, &d[MH_DIM_DST4], words);
    lay_out(&p->mark, &arena, &d[MH_DIM_MARK], words);
    lay_out(&p->uid, &arena, &d[MH_DIM_UID], words);
    lay_out16(&p->sport, &arena, &d[MH_DIM_SPORT], words);
    lay_out16(&p->dport, &arena, &d[MH_DIM_DPORT], words);
    lay_out16(&p->icmp, &arena, &d[MH_DIM_ICMP], words);
    p->no_uid = absent(p->uid.rows, &d[MH_DIM_UID], words);
    p->no_sport = absent(p->sport.rows, &d[MH_DIM_SPORT], words);
    p->no_dport = absent(p->dport.rows, &d[MH_DIM_DPORT], words);
    p->no_icmp = absent(p->icmp.rows, &d[MH_DIM_ICMP], words);
    p->plain = take(&arena, PLAINS * words);
    p->unowned = take(&arena, PLAINS * words);
    for (unsigned i = 0; i < PLAINS; i++)
        for (unsigned w = 0; w < words; w++) {
            uint64_t row = context[i / ORIGINS * words + w] & origin[i % ORIGINS * words + w];
            p->plain[i * words + w] = row;
            p->unowned[i * words + w] = row & p->mark.rows[w] & p->no_uid[w]; /* the first mark is 0 */
        }
    p->accept = take(&arena, words);
    p->some_protocol6 = take(&arena, words);
    p->every_protocol6 = take(&arena, words);
    for (unsigned w = 0; w < words; w++) {
        p->every_protocol6[w] = UINT64_MAX;
        for (unsigned proto = 256; proto < PROTOCOLS; proto++) {
            p->some_protocol6[w] |= p->protocol[proto * words + w];
            p->every_protocol6[w] &= p->protocol[proto * words + w];
        }
    }
    for (unsigned i = 0; i < rules; i++) {
        const uint8_t flags_of = bytes[16 + i];
        mh_verdict v = {.rule = (uint16_t)i, .accept = flags_of & ACCEPT};
        v.reason = v.accept ? MH_REASON_NONE : MH_REASON_POLICY;
        p->verdicts[1][i] = v; /* only our own side gets an answer: inward, silence */
        v.answer = !v.accept && flags_of & REJECT ? MH_ANSWER_REJECT : MH_ANSWER_NONE;
        p->verdicts[0][i] = v;
        if (v.accept)
            p->accept[i / 64] |= UINT64_C(1) << (i % 64);
    }
    return p;
}

void mh_program_free(mh_program *p) { free(p); }
uint16_t mh_program_rules(const mh_program *p) { return p->rules; }
uint64_t mh_program_fingerprint(const mh_program *p) { return p->fingerprint; }

/* ---- judging ---- */

/* The row of the interval that holds x: the last start that is not greater. */
static inline const uint64_t *find(const intervals *t, uint32_t x, unsigned words) {
    hint h = t->hints[x >> 24];
    const uint32_t *base = t->starts + h.first;
    for (uint32_t n = h.count; n > 1; n -= n / 2)
        base += base[n / 2] <= x ? n / 2 : 0;
    return t->rows + (size_t)(base - t->starts) * words;
}

static inline const uint64_t *find16(const table16 *t, uint32_t x, unsigned words) {
    const uint32_t upper = t->upper[x >> 8];
    return t->rows + (size_t)t->cells[(upper >> 8) + (x & upper & 255)] * words;
}

static inline const uint64_t *find6(const intervals6 *t, const uint8_t address[16], unsigned words) {
    uint64_t high, low;
    memcpy(&high, address, 8);
    memcpy(&low, address + 8, 8);
    u128 x = (u128)__builtin_bswap64(high) << 64 | __builtin_bswap64(low);
    hint h = t->hints[address[0]];
    const u128 *base = t->starts + h.first;
    for (uint32_t n = h.count; n > 1; n -= n / 2)
        base += base[n / 2] <= x ? n / 2 : 0;
    return t->rows + (size_t)(base - t->starts) * words;
}

/* The rows of the packet, in groups that later fragments need apart. */
typedef struct {
    const uint64_t *plain, *protocol, *src, *dst, *mark, *uid; /* every fragment shows these */
    const uint64_t *sport, *dport, *icmp;
} rows;

INLINE bool gather(const mh_program *p, const mh_facts *f, unsigned words, rows *r) {
    unsigned context = mh_context(f);
    unsigned origin = f->app * 2u + f->reply;
    if (context >= MH_CONTEXTS || origin >= ORIGINS)
        return false;
    const size_t plain = (size_t)(context * ORIGINS + origin) * words;
    if (f->has_uid || f->mark) {
        r->plain = p->plain + plain;
        r->mark = find(&p->mark, f->mark, words);
        r->uid = f->has_uid ? find(&p->uid, f->uid, words) : p->no_uid;
    } else {
        r->plain = r->mark = r->uid = p->unowned + plain;
    }
    if (f->version == 4) {
        r->protocol = p->protocol + (size_t)f->proto * words;
        r->src = find(&p->src4, mh_get32be(f->src), words);
        r->dst = find(&p->dst4, mh_get32be(f->dst), words);
    } else {
        r->protocol = p->protocol + (256u + (size_t)f->proto) * words;
        r->src = find6(&p->src6, f->src, words);
        r->dst = find6(&p->dst6, f->dst, words);
    }
    r->sport = f->has_ports ? find16(&p->sport, f->sport, words) : p->no_sport;
    r->dport = f->has_ports ? find16(&p->dport, f->dport, words) : p->no_dport;
    r->icmp = f->has_icmp ? find16(&p->icmp, (uint32_t)f->icmp_type << 8 | f->icmp_code, words) : p->no_icmp;
    return true;
}

static inline uint64_t shown(const rows *r, unsigned w) {
    return r->plain[w] & r->protocol[w] & r->src[w] & r->dst[w] & r->mark[w] & r->uid[w];
}

/* What a rule says. An entry of the table, not a value made of fields: it is returned as one load. */
static inline const mh_verdict *verdict_of(const mh_program *p, unsigned rule, uint8_t direction) {
    return &p->verdicts[direction == MH_IN][rule];
}

/* Facts that are none: blocked under the last rule, without an answer. */
static inline const mh_verdict *blocked(const mh_program *p) { return verdict_of(p, p->rules - 1u, MH_IN); }

INLINE const mh_verdict *judge(const mh_program *p, const mh_facts *f, unsigned words) {
    rows r;
    if (!gather(p, f, words, &r))
        return blocked(p);
    for (unsigned w = 0; w < words; w++) {
        uint64_t matching = shown(&r, w) & r.sport[w] & r.dport[w] & r.icmp[w];
        if (matching)
            return verdict_of(p, w * 64 + (unsigned)__builtin_ctzll(matching), f->direction);
    }
    return blocked(p); /* not reached: the last rule is in every row */
}

static __attribute__((noinline)) const mh_verdict *judge_words(const mh_program *p, const mh_facts *f) {
    return judge(p, f, p->words);
}

mh_verdict mh_judge(const mh_program *p, const mh_facts *f) {
    if (!p)
        return (mh_verdict){.reason = MH_REASON_NO_POLICY};
    /* The policies have one word: the same code without loop and multiplications. */
    return p->words == 1 ? *judge(p, f, 1) : *judge_words(p, f);
}

mh_verdict mh_judge_later(const mh_program *p, const mh_facts *f) {
    if (!p)
        return (mh_verdict){.reason = MH_REASON_NO_POLICY};
    rows r;
    if (!gather(p, f, p->words, &r))
        return *blocked(p);
    const uint64_t *protocol_for_sure = r.protocol;
    if (f->version == 6) { /* the fragment header's word for it counts in the first fragment alone (RFC 8200 4.5) */
        r.protocol = p->some_protocol6;
        protocol_for_sure = p->every_protocol6;
    }
    /* Every rule up to the first that matches for sure may be the first fragment's: they must all agree. */
    bool may_accept = false, may_block = false;
    for (unsigned w = 0; w < p->words; w++) {
        uint64_t may = shown(&r, w);
        uint64_t sure = may & protocol_for_sure[w] & p->no_sport[w] & p->no_dport[w] & p->no_icmp[w];
        if (sure)
            may &= sure ^ (sure - 1); /* up to and with the lowest sure one */
        may_accept = may_accept || (may & p->accept[w]) != 0;
        may_block = may_block || (may & ~p->accept[w]) != 0;
        if (may_accept && may_block)
            break;
        if (sure) {
            mh_verdict v = *verdict_of(p, w * 64 + (unsigned)__builtin_ctzll(sure), f->direction);
            v.answer = MH_ANSWER_NONE; /* RFC 1122 3.2.2: never about a later fragment */
            return v;
        }
    }
    mh_verdict unknown = *blocked(p);
    unknown.reason = MH_REASON_FRAGMENT_UNKNOWN;
    return unknown;
}
