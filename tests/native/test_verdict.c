/* test_verdict.c - loading refuses what is no program; judging agrees with a walk over the bytes; fragments. */
#include "program.h"

static made_program m;

static void random_programs_judge_as_the_naive_walk_does(void) {
    uint64_t seed = 7;
    for (int i = 0; i < 400; i++) {
        make_program(&m, &seed, 1 + random_below(&seed, i % 4 ? 64 : 300), 1 + random_below(&seed, 30));
        mh_program *p = mh_program_load(m.bytes, m.len);
        CHECK(p && mh_program_rules(p) == m.rules);
        for (int j = 0; j < 60; j++) {
            mh_facts f = random_facts(&seed);
            CHECK(same(mh_judge(p, &f), naive_judge(&m, &f)));
        }
        mh_program_free(p);
    }
}

/* Intervals that begin and end at, before and after the edges of the tables' pages of 256 values, and the absent value. */
static void every_port_and_icmp_type_is_found_in_its_interval(void) {
    static const uint32_t edges[] = {0, 1, 255, 256, 257, 443, 444, 512, 768, 1023, 65279, 65280, 65535, 65536};
    const size_t most = sizeof edges / sizeof *edges;
    static const int dimensions[] = {MH_DIM_SPORT, MH_DIM_DPORT, MH_DIM_ICMP};
    uint64_t seed = 11;
    for (int i = 0; i < 12; i++) {
        make_program(&m, &seed, i % 3 ? 60 : 100, 14);
        for (size_t j = 0; j < 3; j++) {
            const size_t n = m.dims[dimensions[j]].n;
            for (size_t k = 1; k < n && n <= most; k++) /* the first, and the last n - 1 of them */
                mh_put64le(m.bytes + m.dims[dimensions[j]].starts + k * 8, edges[most - n + k]);
        }
        mh_program *p = mh_program_load(m.bytes, m.len);
        CHECK(p);
        mh_facts f = random_facts(&seed);
        f.has_ports = i % 2;
        f.has_icmp = !f.has_ports;
        for (uint32_t value = 0; value < 65536; value++) {
            f.sport = (uint16_t)value;
            f.dport = (uint16_t)(value * 257 + 255);
            f.icmp_type = (uint8_t)(value >> 8);
            f.icmp_code = (uint8_t)value;
            CHECK(same(mh_judge(p, &f), naive_judge(&m, &f)));
        }
        mh_program_free(p);
    }
}

/* Most packets have neither: they are judged by a row made at loading. */
static void a_packet_without_owner_and_mark_is_judged_as_the_naive_walk_does(void) {
    uint64_t seed = 12;
    for (int i = 0; i < 200; i++) {
        make_program(&m, &seed, 1 + random_below(&seed, i % 4 ? 64 : 300), 30);
        mh_program *p = mh_program_load(m.bytes, m.len);
        CHECK(p);
        for (int j = 0; j < 60; j++) {
            mh_facts f = random_facts(&seed);
            f.has_uid = j % 3 == 1;
            f.mark = j % 3 == 2 ? f.mark : 0;
            CHECK(same(mh_judge(p, &f), naive_judge(&m, &f)));
        }
        mh_program_free(p);
    }
}

static void no_policy_blocks_everything(void) {
    uint64_t seed = 8;
    mh_fragments *t = mh_fragments_new();
    CHECK(t);
    for (int i = 0; i < 100; i++) {
        mh_facts f = random_facts(&seed);
        mh_verdict v = mh_filter(NULL, t, &f, 1);
        CHECK(!v.accept && v.reason == MH_REASON_NO_POLICY && v.answer == MH_ANSWER_NONE);
    }
    mh_fragments_free(t);
}

static void facts_that_are_none_are_blocked(void) {
    uint64_t seed = 9;
    make_program(&m, &seed, 40, 8);
    mh_program *p = mh_program_load(m.bytes, m.len);
    CHECK(p);
    for (int what = 0; what < 4; what++) {
        mh_facts f = random_facts(&seed);
        if (what == 0)
            f.direction = 3;
        if (what == 1)
            f.iface_in = 3;
        if (what == 2)
            f.iface_out = 255;
        if (what == 3)
            f.app = 3;
        mh_verdict v = mh_judge(p, &f);
        CHECK(!v.accept && v.rule == 39);
        CHECK(!mh_judge_later(p, &f).accept);
    }
    mh_program_free(p);
}

/* Loads exactly len bytes of heap, so that the sanitizer sees a read beyond them. */
static bool loads(const uint8_t *bytes, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    CHECK(copy);
    memcpy(copy, bytes, len);
    mh_program *p = mh_program_load(copy, len);
    free(copy);
    bool loaded = p != NULL;
    mh_program_free(p);
    return loaded;
}

static void every_truncation_is_refused(void) {
    uint64_t seed = 10;
    make_program(&m, &seed, 20, 3);
    for (size_t len = 0; len < m.len; len++)
        CHECK(!loads(m.bytes, len));
    CHECK(loads(m.bytes, m.len));
    CHECK(!loads(m.bytes, m.len + 8)); /* nor may anything follow */
    CHECK(!mh_program_load(NULL, 0));
}

static void every_field_is_checked(void) {
    uint64_t seed = 11;
    static made_program good;
    make_program(&good, &seed, 20, 6);
    CHECK(loads(good.bytes, good.len));
#define BROKEN(change)                       \
    do {                                     \
        m = good;                            \
        change;                              \
        CHECK(!loads(m.bytes, m.len));       \
    } while (0)
    BROKEN(m.bytes[0] ^= 1);                               /* magic */
    BROKEN(m.bytes[4] = 2);                                /* version */
    BROKEN(m.bytes[6] = 0);                                /* no rules */
    BROKEN(m.bytes[7] = 0xff);                             /* too many */
    BROKEN(m.bytes[8] = 2);                                /* words */
    BROKEN(m.bytes[10] = MH_DIMENSIONS - 1);               /* dimensions */
    BROKEN(m.bytes[12] ^= 1);                              /* length */
    BROKEN(m.bytes[16] = 3);                               /* accept and reject */
    BROKEN(m.bytes[16 + 19] = 1);                          /* the last rule accepts */
    BROKEN(m.bytes[16 + 20] = 1);                          /* padding */
    BROKEN(mh_put64le(m.bytes + m.dims[0].starts - 8, 0)); /* no intervals */
    BROKEN(mh_put64le(m.bytes + m.dims[0].starts - 8, UINT64_MAX));
    BROKEN(mh_put64le(m.bytes + m.dims[0].starts - 8, UINT64_MAX / 16 + 2));
    for (int dim = 0; dim < MH_DIMENSIONS; dim++) {
        size_t width = dim < MH_DIM_SRC6 ? 8 : 16;
        BROKEN(m.bytes[m.dims[dim].starts] = 1);               /* does not begin at 0 */
        BROKEN(m.bytes[m.dims[dim].rows + 2] &= (uint8_t)~8u); /* the last rule is not everywhere */
        BROKEN(m.bytes[m.dims[dim].rows + 2] |= 16);           /* a rule that is not there */
        if (good.dims[dim].n > 1)                              /* not ascending */
            BROKEN(memset(m.bytes + m.dims[dim].starts + width, 0, width));
        if (good.dims[dim].n > 1 && width == 8) /* beyond the dimension's values */
            BROKEN(mh_put64le(m.bytes + m.dims[dim].starts + (m.dims[dim].n - 1) * 8, ends[dim]));
    }
#undef BROKEN
}

/* A program of three rules: TCP to port 53 blocked, the rest accepted, P-0. */
static mh_program *no_dns(uint8_t first_flags, uint8_t second_flags) {
    uint8_t b[1024] = {'M', 'H', 'V', 'P', 1, 0, 3, 0, 1, 0, MH_DIMENSIONS, 0};
    b[16] = first_flags;
    b[17] = second_flags;
    size_t at = 24;
    for (int dim = 0; dim < MH_DIMENSIONS; dim++) {
        size_t n = dim == MH_DIM_DPORT ? 3 : 1, width = dim < MH_DIM_SRC6 ? 8 : 16;
        mh_put64le(b + at, n);
        at += 8;
        if (n == 3) {
            mh_put64le(b + at + 8, 53);
            mh_put64le(b + at + 16, 54);
        }
        at += n * width;
        for (size_t i = 0; i < n; i++, at += 8)
            mh_put64le(b + at, n == 3 && i != 1 ? 6 : 7);
    }
    mh_put32le(b + 12, (uint32_t)at);
    mh_program *p = mh_program_load(b, at);
    CHECK(p);
    return p;
}

static mh_facts fragment(uint8_t kind, uint32_t id, uint32_t offset, uint32_t len, uint16_t dport) {
    mh_facts f = {.version = 4, .proto = 17, .fragment = kind, .frag_id = id, .frag_offset = offset, .frag_len = len};
    f.iface_out = MH_TUNNEL;
    f.has_ports = kind == MH_FIRST;
    f.dport = dport;
    return f;
}

#define SECOND UINT64_C(1000000000)

static void later_fragments_share_the_first_ones_verdict_for_30_seconds(void) {
    mh_program *p = no_dns(2, 1);
    mh_fragments *t = mh_fragments_new();
    mh_facts first = fragment(MH_FIRST, 1, 0, 64, 443), dns = fragment(MH_FIRST, 2, 0, 64, 53);
    mh_facts later = fragment(MH_LATER, 1, 64, 8, 0), later_dns = fragment(MH_LATER, 2, 64, 8, 0);
    uint64_t now = 5 * SECOND;

    mh_verdict v = mh_filter(p, t, &later, now);
    CHECK(!v.accept && v.reason == MH_REASON_FRAGMENT_UNKNOWN && v.rule == 2 && v.answer == MH_ANSWER_NONE);
    CHECK(mh_filter(p, t, &first, now).accept);
    v = mh_filter(p, t, &dns, now);
    CHECK(!v.accept && v.reason == MH_REASON_POLICY && v.answer == MH_ANSWER_REJECT);
    CHECK(mh_filter(p, t, &later, now).accept);
    v = mh_filter(p, t, &later_dns, now);
    CHECK(!v.accept && v.reason == MH_REASON_FRAGMENT_UNKNOWN && v.rule == 0 && v.answer == MH_ANSWER_NONE);

    mh_facts overlap = fragment(MH_LATER, 1, 56, 16, 0);
    v = mh_filter(p, t, &overlap, now);
    CHECK(!v.accept && v.reason == MH_REASON_FRAGMENT_BAD);

    mh_facts elsewhere = later, other_sender = later, inward = later;
    elsewhere.iface_out = MH_OTHER;
    other_sender.mark = 1;
    inward.direction = MH_IN;
    CHECK(!mh_filter(p, t, &elsewhere, now).accept);
    CHECK(!mh_filter(p, t, &other_sender, now).accept);
    CHECK(!mh_filter(p, t, &inward, now).accept);

    CHECK(mh_filter(p, t, &later, now + 30 * SECOND - 1).accept);
    CHECK(!mh_filter(p, t, &later, now + 30 * SECOND).accept);
    mh_fragments_free(t);
    mh_program_free(p);
}

static void another_program_judges_the_rest_of_a_datagram_by_its_first_fragment(void) {
    mh_program *open = no_dns(1, 1), *strict = no_dns(2, 1), *closed = no_dns(2, 2);
    mh_fragments *t = mh_fragments_new();
    mh_facts first = fragment(MH_FIRST, 1, 0, 64, 443), later = fragment(MH_LATER, 1, 64, 8, 0);
    CHECK(mh_filter(strict, t, &first, SECOND).accept && mh_filter(strict, t, &later, SECOND).accept);
    CHECK(mh_filter(open, t, &later, SECOND).accept);
    CHECK(!mh_filter(closed, t, &later, SECOND).accept);
    CHECK(mh_filter(strict, t, &later, SECOND).accept);
    mh_facts dns = fragment(MH_FIRST, 2, 0, 64, 53), later_dns = fragment(MH_LATER, 2, 64, 8, 0);
    CHECK(mh_filter(open, t, &dns, SECOND).accept && !mh_filter(strict, t, &later_dns, SECOND).accept);
    mh_fragments_free(t);
    mh_program_free(open);
    mh_program_free(strict);
    mh_program_free(closed);
}

static void a_flood_of_first_fragments_can_only_lead_to_more_drops(void) {
    mh_program *p = no_dns(2, 1);
    mh_fragments *t = mh_fragments_new();
    mh_facts dns = fragment(MH_FIRST, 0, 0, 64, 53), later = fragment(MH_LATER, 0, 64, 8, 0);
    mh_filter(p, t, &dns, SECOND);
    for (uint32_t id = 1; id < 20000; id++) {
        mh_facts first = fragment(MH_FIRST, id, 0, 64, 443);
        CHECK(mh_filter(p, t, &first, SECOND + id).accept);
        CHECK(!mh_filter(p, t, &later, SECOND + id).accept);
        mh_facts its = fragment(MH_LATER, id, 64, 8, 0);
        CHECK(mh_filter(p, t, &its, SECOND + id).accept); /* the newest is never the one given up */
    }
    mh_fragments_free(t);
    mh_program_free(p);
}

int main(void) {
    RUN(random_programs_judge_as_the_naive_walk_does);
    RUN(every_port_and_icmp_type_is_found_in_its_interval);
    RUN(a_packet_without_owner_and_mark_is_judged_as_the_naive_walk_does);
    RUN(no_policy_blocks_everything);
    RUN(facts_that_are_none_are_blocked);
    RUN(every_truncation_is_refused);
    RUN(every_field_is_checked);
    RUN(later_fragments_share_the_first_ones_verdict_for_30_seconds);
    RUN(another_program_judges_the_rest_of_a_datagram_by_its_first_fragment);
    RUN(a_flood_of_first_fragments_can_only_lead_to_more_drops);
    return 0;
}
