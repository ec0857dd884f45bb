/*
 * verdict.c - loads the flat program (verdict.h has its layout) and runs it.
 *
 * Loading checks every field, then lays the dimensions out for speed: the small ones (context, protocol, origin) as
 * arrays indexed by value, the others as sorted starts with a hint for each top byte, so that most values need no
 * search at all and the rest one without a branch to mispredict. Judging gathers one row of rule bits a dimension and takes the lowest rule that is in all of them.
 */
#include "verdict.h"

#include <stdlib.h>

__extension__ typedef unsigned __int128 u128;

/* The intervals that values of one top byte can fall in. */
typedef struct {
    uint16_t first, count;
} hint;

/* Sorted starts, starts[0] = 0; the row of interval i is at rows + i * words. */
typedef struct {
    unsigned shift; /* to the top byte of a value */
    uint32_t *starts;
    uint64_t *rows;
    hint hints[256];
} intervals;

typedef struct {
    u128 *starts;
    uint64_t *rows;
    hint hints[256];
} intervals6;

#define PROTOCOLS 512u
#define ORIGINS 6u

struct mh_program {
    uint16_t rules;
    uint16_t words;
    uint64_t fingerprint;
    uint64_t *context;  /* MH_CONTEXTS rows */
    uint64_t *protocol; /* PROTOCOLS rows */
    uint64_t *origin;   /* ORIGINS rows */
    intervals sport, dport, icmp, mark, uid, src4, dst4;
    intervals6 src6, dst6;
    uint64_t *no_sport, *no_dport, *no_icmp, *no_uid; /* the rows of the absent values */
    uint64_t *some_protocol6, *every_protocol6;       /* rules that hold for some / for every IPv6 protocol */
    uint64_t *accept;                                 /* a row: the rules that accept */
    uint8_t flags[MH_MAX_RULES];
    uint64_t arena[];
};

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

/* bits: of a value. The absent value lies beyond them: it is the greatest, so the last row is its row. */
static void lay_out(intervals *t, uint64_t **arena, const dimension *d, unsigned words, unsigned bits, uint64_t **absent) {
    t->shift = bits - 8;
    t->starts = (uint32_t *)take(arena, (d->count + 1) / 2);
    for (uint64_t i = 0; i < d->count; i++)
        t->starts[i] = (uint32_t)start_of(d, i); /* 2^32, the absent uid's, is cut off, but no hint leads there */
    t->rows = copy_rows(arena, d, words);
    fill_hints(t->hints, d, t->shift);
    if (absent)
        *absent = t->rows + (d->count - 1) * words;
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
    uint64_t need = (MH_CONTEXTS + PROTOCOLS + ORIGINS + 8) * words;
    for (int i = 0; i < MH_DIMENSIONS; i++) {
        if (!read_dimension(&r, i, rules, words, &d[i]))
            return NULL;
        if (i > MH_DIM_ORIGIN)
            need += d[i].count * (words + d[i].width / 8) + 1;
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
    memcpy(p->flags, bytes + 16, rules);
    p->fingerprint = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        p->fingerprint = (p->fingerprint ^ bytes[i]) * UINT64_C(0x100000001b3);

    uint64_t *arena = p->arena;
    arena += ((uintptr_t)arena % 16) / 8; /* the 128-bit starts come first, aligned */
    lay_out6(&p->src6, &arena, &d[MH_DIM_SRC6], words);
    arena += ((uintptr_t)arena % 16) / 8;
    lay_out6(&p->dst6, &arena, &d[MH_DIM_DST6], words);
    p->context = spread(&arena, &d[MH_DIM_CONTEXT], words, MH_CONTEXTS);
    p->protocol = spread(&arena, &d[MH_DIM_PROTOCOL], words, PROTOCOLS);
    p->origin = spread(&arena, &d[MH_DIM_ORIGIN], words, ORIGINS);
    lay_out(&p->src4, &arena, &d[MH_DIM_SRC4], words, 32, NULL);
    lay_out(&p->dst4, &arena, &d[MH_DIM_DST4], words, 32, NULL);
    lay_out(&p->mark, &arena, &d[MH_DIM_MARK], words, 32, NULL);
    lay_out(&p->sport, &arena, &d[MH_DIM_SPORT], words, 16, &p->no_sport);
    lay_out(&p->dport, &arena, &d[MH_DIM_DPORT], words, 16, &p->no_dport);
    lay_out(&p->icmp, &arena, &d[MH_DIM_ICMP], words, 16, &p->no_icmp);
    lay_out(&p->uid, &arena, &d[MH_DIM_UID], words, 32, &p->no_uid);
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
    for (unsigned i = 0; i < rules; i++)
        if (p->flags[i] & ACCEPT)
            p->accept[i / 64] |= UINT64_C(1) << (i % 64);
    return p;
}

void mh_program_free(mh_program *p) { free(p); }
uint16_t mh_program_rules(const mh_program *p) { return p->rules; }
uint64_t mh_program_fingerprint(const mh_program *p) { return p->fingerprint; }

/* ---- judging ---- */

/* The row of the interval that holds x: the last start that is not greater. */
static inline const uint64_t *find(const intervals *t, uint32_t x, unsigned words) {
    hint h = t->hints[x >> t->shift];
    const uint32_t *base = t->starts + h.first;
    for (uint32_t n = h.count; n > 1; n -= n / 2)
        base += base[n / 2] <= x ? n / 2 : 0;
    return t->rows + (size_t)(base - t->starts) * words;
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
    const uint64_t *context, *protocol, *origin, *src, *dst, *mark, *uid; /* every fragment shows these */
    const uint64_t *sport, *dport, *icmp;
} rows;

__attribute__((always_inline)) static inline bool gather(const mh_program *p, const mh_facts *f, rows *r) {
    unsigned words = p->words;
    unsigned context = mh_context(f);
    unsigned origin = f->app * 2u + f->reply;
    if (context >= MH_CONTEXTS || origin >= ORIGINS)
        return false;
    r->context = p->context + (size_t)context * words;
    r->origin = p->origin + (size_t)origin * words;
    if (f->version == 4) {
        r->protocol = p->protocol + (size_t)f->proto * words;
        r->src = find(&p->src4, mh_get32be(f->src), words);
        r->dst = find(&p->dst4, mh_get32be(f->dst), words);
    } else {
        r->protocol = p->protocol + (256u + (size_t)f->proto) * words;
        r->src = find6(&p->src6, f->src, words);
        r->dst = find6(&p->dst6, f->dst, words);
    }
    r->mark = find(&p->mark, f->mark, words);
    r->uid = f->has_uid ? find(&p->uid, f->uid, words) : p->no_uid;
    r->sport = f->has_ports ? find(&p->sport, f->sport, words) : p->no_sport;
    r->dport = f->has_ports ? find(&p->dport, f->dport, words) : p->no_dport;
    r->icmp = f->has_icmp ? find(&p->icmp, (uint32_t)f->icmp_type << 8 | f->icmp_code, words) : p->no_icmp;
    return true;
}

static inline uint64_t shown(const rows *r, unsigned w) {
    return r->context[w] & r->protocol[w] & r->origin[w] & r->src[w] & r->dst[w] & r->mark[w] & r->uid[w];
}

/* Facts that are none, or a verdict nobody can know: blocked under the last rule. */
static mh_verdict blocked(const mh_program *p, uint8_t reason) {
    return (mh_verdict){.rule = (uint16_t)(p->rules - 1), .reason = reason};
}

static inline mh_verdict verdict_of(const mh_program *p, unsigned rule, uint8_t direction) {
    uint8_t flags = p->flags[rule];
    mh_verdict v = {.rule = (uint16_t)rule, .accept = flags & ACCEPT};
    if (!v.accept) {
        v.reason = MH_REASON_POLICY;
        /* Only our own side gets an answer: inward, silence. */
        v.answer = flags & REJECT && direction != MH_IN ? MH_ANSWER_REJECT : MH_ANSWER_NONE;
    }
    return v;
}

mh_verdict mh_judge(const mh_program *p, const mh_facts *f) {
    if (!p)
        return (mh_verdict){.reason = MH_REASON_NO_POLICY};
    rows r;
    if (!gather(p, f, &r))
        return blocked(p, MH_REASON_POLICY);
    for (unsigned w = 0; w < p->words; w++) {
        uint64_t matching = shown(&r, w) & r.sport[w] & r.dport[w] & r.icmp[w];
        if (matching)
            return verdict_of(p, w * 64 + (unsigned)__builtin_ctzll(matching), f->direction);
    }
    return blocked(p, MH_REASON_POLICY); /* not reached: the last rule is in every row */
}

mh_verdict mh_judge_later(const mh_program *p, const mh_facts *f) {
    if (!p)
        return (mh_verdict){.reason = MH_REASON_NO_POLICY};
    rows r;
    if (!gather(p, f, &r))
        return blocked(p, MH_REASON_POLICY);
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
            mh_verdict v = verdict_of(p, w * 64 + (unsigned)__builtin_ctzll(sure), f->direction);
            v.answer = MH_ANSWER_NONE; /* RFC 1122 3.2.2: never about a later fragment */
            return v;
        }
    }
    return blocked(p, MH_REASON_FRAGMENT_UNKNOWN);
}
