/*
 * audit.c - one loop over a capture: read, parse, judge, count (audit.h).
 */
#include "audit.h"

#include <stdlib.h>

#define FLOW_SETS 65536u
#define FLOW_WAYS 4u
#define MAX_HARDWARE 16u
#define SCRATCH (40u + MH_MAX_PACKET)
#define NO_IDB UINT32_MAX

typedef struct {
    uint8_t src[16], dst[16];
    uint16_t sport, dport;
    uint8_t proto, version, context, pad;
} flow_key; /* compared and hashed as bytes */
_Static_assert(sizeof(flow_key) == 40, "flow_key has padding");

typedef struct {
    flow_key key;
    uint16_t rule;
    uint8_t outcome;
    uint64_t packets, bytes; /* packets 0: free */
} flow;

struct mh_audit {
    mh_capture capture;
    mh_program *program;
    mh_fragments *fragments;
    mh_sender sender;
    uint8_t *local; /* locals * 17 */
    size_t locals;
    uint8_t hardware[MAX_HARDWARE][6]; /* addresses our packets came from */
    size_t hardwares;
    mh_audit_totals totals;
    mh_tally *rows; /* (rules + 1) * MH_OUTCOMES */
    flow *flows;
    char *comments;
    uint32_t *comment_starts;
    uint32_t section, next_idb; /* of the file that is written */
    uint32_t idb[MH_CAPTURE_INTERFACES];
    uint8_t scratch[SCRATCH];
};

mh_audit *mh_audit_new(const uint8_t *program, size_t len, const uint8_t *local, size_t n, const char *tunnel, mh_sender sender) {
    mh_audit *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    mh_capture_init(&a->capture, tunnel);
    a->sender = sender;
    a->program = mh_program_load(program, len);
    a->fragments = mh_fragments_new();
    a->local = calloc(n + 1, 17);
    a->locals = n;
    a->flows = calloc((size_t)FLOW_SETS * FLOW_WAYS, sizeof *a->flows);
    if (a->program) {
        a->totals.rules = mh_program_rules(a->program);
        a->rows = calloc((a->totals.rules + 1u) * MH_OUTCOMES, sizeof *a->rows);
    }
    if (!a->program || !a->fragments || !a->local || !a->flows || !a->rows) {
        mh_audit_free(a);
        return NULL;
    }
    if (n)
        memcpy(a->local, local, n * 17);
    memset(a->idb, 0xff, sizeof a->idb);
    return a;
}

void mh_audit_free(mh_audit *a) {
    if (!a)
        return;
    mh_program_free(a->program);
    mh_fragments_free(a->fragments);
    free(a->local);
    free(a->flows);
    free(a->rows);
    free(a->comments);
    free(a->comment_starts);
    free(a);
}

bool mh_audit_set_comments(mh_audit *a, const char *text, const uint32_t *starts) {
    size_t n = (a->totals.rules + 1u) * MH_OUTCOMES + 1;
    char *comments = malloc(starts[n - 1] + 1u);
    uint32_t *copy = malloc(n * sizeof *copy);
    if (!comments || !copy) {
        free(comments);
        free(copy);
        return false;
    }
    memcpy(comments, text, starts[n - 1]);
    memcpy(copy, starts, n * sizeof *copy);
    free(a->comments);
    free(a->comment_starts);
    a->comments = comments;
    a->comment_starts = copy;
    return true;
}

/* ---- which way ---- */

static bool is_local(const mh_audit *a, uint8_t version, const uint8_t address[16]) {
    for (size_t i = 0; i < a->locals; i++)
        if (a->local[i * 17] == version && memcmp(a->local + i * 17 + 1, address, 16) == 0)
            return true;
    return false;
}

static bool is_unspecified(const uint8_t address[16]) {
    static const uint8_t zero[16] = {0};
    return memcmp(address, zero, 16) == 0;
}

static bool is_group(const mh_facts *f) {
    if (f->version == 6)
        return f->dst[0] == 0xff;
    return f->dst[0] >> 4 == 14 || mh_get32be(f->dst) == UINT32_MAX;
}

static bool is_our_hardware(const mh_audit *a, const uint8_t *address) {
    for (size_t i = 0; address && i < a->hardwares; i++)
        if (memcmp(a->hardware[i], address, 6) == 0)
            return true;
    return false;
}

static int direction_of(mh_audit *a, const mh_record *r, const mh_facts *f) {
    if (r->way == MH_WAY_IN)
        return MH_IN;
    if (is_local(a, f->version, f->src)) {
        if (r->source && !is_our_hardware(a, r->source) && a->hardwares < MAX_HARDWARE && r->iface != MH_LOOPBACK)
            memcpy(a->hardware[a->hardwares++], r->source, 6);
        return MH_OUT;
    }
    if (r->way == MH_WAY_OUT || is_our_hardware(a, r->source))
        return MH_OUT;
    if (is_local(a, f->version, f->dst))
        return MH_IN;
    if (r->iface == MH_LOOPBACK)
        return MH_OUT;
    if (r->group || is_group(f)) /* asking for an address before we have one: ours, as long as nothing tells otherwise */
        return is_unspecified(f->src) && a->hardwares == 0 ? MH_OUT : MH_IN;
    return -1;
}

/* ---- flows ---- */

static flow *set_of(const mh_audit *a, const flow_key *k) {
    uint64_t words[sizeof(flow_key) / 8], h = 0;
    memcpy(words, k, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        h = (h ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 32;
    }
    return a->flows + h % FLOW_SETS * FLOW_WAYS;
}

static flow_key key_of(const mh_facts *f, uint8_t context) {
    flow_key k = {.proto = f->proto, .version = f->version, .context = context};
    memcpy(k.src, f->src, 16);
    memcpy(k.dst, f->dst, 16);
    if (f->has_ports) {
        k.sport = f->sport;
        k.dport = f->dport;
    }
    return k;
}

/* Whether an incoming packet answers a flow that was seen going out by the same interface, accepted. */
static bool answers(const mh_audit *a, const mh_facts *f) {
    flow_key k = key_of(f, f->iface_in); /* the context of going out is the interface itself */
    memcpy(k.src, f->dst, 16);
    memcpy(k.dst, f->src, 16);
    uint16_t port = k.sport;
    k.sport = k.dport;
    k.dport = port;
    const flow *set = set_of(a, &k);
    for (unsigned i = 0; i < FLOW_WAYS; i++)
        if (set[i].packets && set[i].outcome == MH_OUTCOME_ACCEPT && memcmp(&set[i].key, &k, sizeof k) == 0)
            return true;
    return false;
}

/* Accepted flows are worth more than any other: answers are told by them. */
static uint64_t worth(const flow *f) {
    return f->packets && f->outcome == MH_OUTCOME_ACCEPT ? f->packets | UINT64_C(1) << 63 : f->packets;
}

static void count_flow(mh_audit *a, const mh_step *s) {
    flow_key k = key_of(&s->facts, (uint8_t)mh_context(&s->facts));
    flow *set = set_of(a, &k), *place = set;
    for (unsigned i = 0; i < FLOW_WAYS; i++) {
        bool same = set[i].packets && set[i].rule == s->rule && set[i].outcome == s->outcome;
        if (same && memcmp(&set[i].key, &k, sizeof k) == 0) {
            set[i].packets++;
            set[i].bytes += s->bytes;
            return;
        }
        if (worth(&set[i]) < worth(place))
            place = &set[i];
    }
    if (place->outcome == MH_OUTCOME_ACCEPT && place->packets) {
        a->totals.forgotten++;
        if (s->outcome != MH_OUTCOME_ACCEPT)
            return; /* it is the new one that is forgotten: no answer hangs on it */
    }
    *place = (flow){.key = k, .rule = s->rule, .outcome = s->outcome, .packets = 1, .bytes = s->bytes};
}

/* ---- one packet ---- */

/* A packet that was cut off by the capture is parsed as if the rest were zeros; if anything that decides lies there,
 * it is not judged. So is one whose length field is 0 since the card was to fill it in (segmentation offload). */
static int parse(mh_audit *a, const mh_record *r, mh_step *s) {
    const uint8_t *packet = r->ip;
    size_t len = r->ip_captured;
    bool cut = r->ip_original > r->ip_captured;
    bool unfilled = len >= 20 && packet[0] >> 4 == 4 && packet[2] == 0 && packet[3] == 0;
    if (cut || unfilled) {
        size_t held = len < SCRATCH ? len : SCRATCH;
        size_t zeros = SCRATCH - held < 256 ? SCRATCH - held : 256;
        memcpy(a->scratch, packet, held);
        memset(a->scratch + held, 0, zeros);
        len = r->ip_original < SCRATCH ? r->ip_original : SCRATCH;
        if (unfilled)
            mh_put16be(a->scratch + 2, (uint16_t)(len < MH_MAX_PACKET ? len : MH_MAX_PACKET));
        packet = a->scratch;
    }
    int reason = mh_parse(packet, len, &s->facts);
    s->readable = reason == 0;
    s->bytes = reason == 0 ? s->facts.total_len : r->ip_original;
    if (!cut || (reason == 0 && s->facts.total_len <= r->ip_captured))
        return reason;
    uint32_t needed = s->facts.header_len;
    if (s->facts.has_ports)
        needed += s->facts.proto == 6 ? 14 : 8;
    else if (s->facts.has_icmp)
        needed += 8;
    if (reason || needed > r->ip_captured)
        s->skip = MH_SKIP_CUT;
    return reason;
}

/* The parser refused it, but its addresses may be read: which way did it go? */
static void addresses_of(const mh_record *r, mh_facts *f) {
    memset(f, 0, sizeof *f);
    f->version = r->ip[0] >> 4;
    if (f->version == 4 && r->ip_captured >= 20) {
        memcpy(f->src, r->ip + 12, 4);
        memcpy(f->dst, r->ip + 16, 4);
        f->proto = r->ip[9];
    } else if (f->version == 6 && r->ip_captured >= 40) {
        memcpy(f->src, r->ip + 8, 16);
        memcpy(f->dst, r->ip + 24, 16);
        f->proto = r->ip[6];
    }
}

static uint8_t outcome_of(mh_verdict v) {
    if (v.accept)
        return MH_OUTCOME_ACCEPT;
    if (v.reason == MH_REASON_FRAGMENT_UNKNOWN)
        return MH_OUTCOME_FRAGMENT_UNKNOWN;
    if (v.reason == MH_REASON_FRAGMENT_BAD)
        return MH_OUTCOME_FRAGMENT_BAD;
    return v.answer == MH_ANSWER_REJECT ? MH_OUTCOME_REJECT : MH_OUTCOME_DROP;
}

static void judge(mh_audit *a, const mh_record *r, mh_step *s) {
    s->number = ++a->totals.packets;
    s->time_ns = r->time_ns;
    s->skip = r->skip;
    int reason = 0;
    if (!s->skip)
        reason = parse(a, r, s);
    if (s->skip) {
        a->totals.skipped[s->skip]++;
        return;
    }
    mh_facts *f = &s->facts;
    if (!s->readable)
        addresses_of(r, f);
    int direction = direction_of(a, r, f);
    if (direction < 0) {
        s->skip = MH_SKIP_NOT_OURS;
        a->totals.skipped[s->skip]++;
        return;
    }
    s->direction = f->direction = (uint8_t)direction;
    f->iface_in = direction == MH_IN ? r->iface : MH_OTHER;
    f->iface_out = direction == MH_OUT ? r->iface : MH_OTHER;
    if (direction == MH_OUT) {
        f->mark = a->sender.mark;
        f->has_uid = true;
        f->uid = a->sender.uid;
        f->app = a->sender.app;
    }
    if (s->readable) {
        f->reply = direction == MH_IN && answers(a, f);
        mh_verdict v = mh_filter(a->program, a->fragments, f, r->time_ns);
        s->rule = v.rule;
        s->outcome = outcome_of(v);
    } else {
        s->rule = a->totals.rules;
        s->outcome = reason == MH_REASON_FRAGMENT_BAD ? MH_OUTCOME_FRAGMENT_BAD : MH_OUTCOME_MALFORMED;
    }
    count_flow(a, s);
    mh_tally *row = &a->rows[(size_t)s->rule * MH_OUTCOMES + s->outcome];
    row->packets++;
    row->bytes += s->bytes;
    a->totals.bytes += s->bytes;
    if (direction == MH_OUT && s->outcome != MH_OUTCOME_ACCEPT) {
        a->totals.leaks.packets++;
        a->totals.leaks.bytes += s->bytes;
    }
}

void mh_audit_step(mh_audit *a, const uint8_t *data, size_t len, size_t *consumed, mh_step *s) {
    mh_record r;
    memset(s, 0, sizeof *s);
    s->result = mh_capture_next(&a->capture, data, len, consumed, &r);
    if (s->result == MH_CAPTURE_PACKET)
        judge(a, &r, s);
}

/* ---- the packets that would leak, as pcapng ---- */

static size_t put_option(uint8_t *p, uint16_t code, const void *value, uint16_t size) {
    p[0] = (uint8_t)code;
    p[1] = (uint8_t)(code >> 8);
    p[2] = (uint8_t)size;
    p[3] = (uint8_t)(size >> 8);
    if (size)
        memcpy(p + 4, value, size);
    size_t padded = (size + 3u) & ~(size_t)3;
    memset(p + 4 + size, 0, padded - size);
    return 4 + padded;
}

static size_t finish_block(uint8_t *p, uint32_t type, size_t at) {
    mh_put32le(p, type);
    mh_put32le(p + 4, (uint32_t)at + 4);
    mh_put32le(p + at, (uint32_t)at + 4);
    return at + 4;
}

static size_t write_interface(mh_audit *a, const mh_record *r, uint8_t *p) {
    const mh_capture_interface *interface = &a->capture.interface[r->interface];
    static const uint8_t nanoseconds = 9;
    mh_put32le(p + 8, r->link);
    mh_put32le(p + 12, 0);
    size_t at = 16;
    if (interface->name[0])
        at += put_option(p + at, 2, interface->name, (uint16_t)strlen(interface->name));
    at += put_option(p + at, 9, &nanoseconds, 1);
    at += put_option(p + at, 0, NULL, 0);
    a->idb[r->interface] = a->next_idb++;
    return finish_block(p, 1, at);
}

static size_t write_packet(const mh_audit *a, const mh_record *r, const mh_step *s, uint8_t *p) {
    static const uint8_t outward[4] = {2};
    mh_put32le(p + 8, a->idb[r->interface]);
    mh_put32le(p + 12, (uint32_t)(r->time_ns >> 32));
    mh_put32le(p + 16, (uint32_t)r->time_ns);
    mh_put32le(p + 20, r->captured);
    mh_put32le(p + 24, r->original);
    memcpy(p + 28, r->frame, r->captured);
    size_t padded = ((size_t)r->captured + 3) & ~(size_t)3;
    memset(p + 28 + r->captured, 0, padded - r->captured);
    size_t at = 28 + padded;
    if (a->comments) {
        size_t i = (size_t)s->rule * MH_OUTCOMES + s->outcome;
        uint32_t size = a->comment_starts[i + 1] - a->comment_starts[i];
        at += put_option(p + at, 1, a->comments + a->comment_starts[i], (uint16_t)(size < 512 ? size : 512));
    }
    at += put_option(p + at, 2, outward, 4);
    at += put_option(p + at, 0, NULL, 0);
    return finish_block(p, 6, at);
}

void mh_audit_feed(mh_audit *a, const uint8_t *data, size_t len, uint8_t *out, size_t out_size, mh_fed *fed) {
    *fed = (mh_fed){0};
    for (;;) {
        mh_record r;
        mh_step s;
        size_t consumed;
        int result = mh_capture_next(&a->capture, data + fed->consumed, len - fed->consumed, &consumed, &r);
        if (result == MH_CAPTURE_MORE || result == MH_CAPTURE_DAMAGED)
            return;
        if (result == MH_CAPTURE_PACKET) {
            if (out && out_size - fed->written < (size_t)r.captured + 1024) {
                fed->full = true;
                return;
            }
            memset(&s, 0, sizeof s);
            judge(a, &r, &s);
            if (out && !s.skip && s.direction == MH_OUT && s.outcome != MH_OUTCOME_ACCEPT) {
                if (a->section != a->capture.section) {
                    memset(a->idb, 0xff, sizeof a->idb);
                    a->section = a->capture.section;
                }
                if (a->idb[r.interface] == NO_IDB)
                    fed->written += write_interface(a, &r, out + fed->written);
                fed->written += write_packet(a, &r, &s, out + fed->written);
            }
        }
        fed->consumed += consumed;
    }
}

/* ---- results ---- */

mh_audit_totals mh_audit_total(const mh_audit *a) {
    mh_audit_totals totals = a->totals;
    totals.problem = a->capture.problem;
    totals.begun = a->capture.format != 0;
    return totals;
}

mh_tally mh_audit_row(const mh_audit *a, unsigned rule, unsigned outcome) {
    if (rule > a->totals.rules || outcome >= MH_OUTCOMES)
        return (mh_tally){0};
    return a->rows[(size_t)rule * MH_OUTCOMES + outcome];
}

size_t mh_audit_top(const mh_audit *a, unsigned rule, unsigned outcome, mh_flow *flows, size_t n) {
    size_t found = 0;
    for (size_t i = 0; n && i < (size_t)FLOW_SETS * FLOW_WAYS; i++) {
        const flow *f = &a->flows[i];
        if (!f->packets || f->rule != rule || f->outcome != outcome || (found == n && f->packets <= flows[n - 1].packets))
            continue;
        size_t at = found < n ? found++ : n - 1;
        for (; at && flows[at - 1].packets < f->packets; at--)
            flows[at] = flows[at - 1];
        uint8_t direction = f->key.context < 3 ? MH_OUT : MH_IN;
        flows[at] = (mh_flow){
            .sport = f->key.sport, .dport = f->key.dport, .proto = f->key.proto, .version = f->key.version,
            .direction = direction, .iface = (uint8_t)(f->key.context % 3), .packets = f->packets, .bytes = f->bytes,
        };
        memcpy(flows[at].src, f->key.src, 16);
        memcpy(flows[at].dst, f->key.dst, 16);
    }
    return found;
}
