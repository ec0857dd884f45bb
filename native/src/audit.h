/*
 * audit.h - judges every packet of a capture: link layer, parser, verdict program and tallies in one loop.
 *
 * Ownership: an audit owns copies of everything it was made with. Threads: one at a time for one audit.
 * Memory is bounded: a flow table of fixed size, one row of counters for each rule and outcome.
 *
 * Which way a packet went: what the capture says (cooked captures, pcapng flags); else from one of our addresses, or
 * from a hardware address that one of our addresses was seen to use: out; to one of our addresses, or to a group: in.
 * A packet that is neither is not ours. A packet answers a flow (facts.reply) if the flow was seen going out and was
 * accepted. A capture does not tell who sent a packet: the caller says whom to presume.
 */
#ifndef MH_AUDIT_H
#define MH_AUDIT_H

#include "capture.h"
#include "verdict.h"

enum mh_outcome {
    MH_OUTCOME_ACCEPT,
    MH_OUTCOME_REJECT,
    MH_OUTCOME_DROP,
    MH_OUTCOME_FRAGMENT_UNKNOWN,
    MH_OUTCOME_FRAGMENT_BAD, /* by a rule, or by the parser: then the rule is the number of rules */
    MH_OUTCOME_MALFORMED,    /* by the parser */
    MH_OUTCOMES
};

typedef struct mh_audit mh_audit;

/* What to presume of the sender of an outgoing packet. */
typedef struct {
    uint32_t mark, uid;
    uint8_t app;
} mh_sender;

/* program: as of engine/filter. local: n addresses of this machine, each 17 bytes: version, then the address (IPv4 in
 * the first 4 bytes, the rest zero). tunnel: as of mh_capture_init(). NULL: no memory, or not a program. */
mh_audit *mh_audit_new(const uint8_t *program, size_t len, const uint8_t *local, size_t n, const char *tunnel, mh_sender sender);
void mh_audit_free(mh_audit *a);

/* The comment of a leaking packet by rule and outcome: at text[starts[i]] to starts[i + 1], i = rule * MH_OUTCOMES +
 * outcome, for rules + 1 rules. Copied; false: no memory. */
bool mh_audit_set_comments(mh_audit *a, const char *text, const uint32_t *starts);

typedef struct {
    uint64_t number; /* of the packet in the file, from 1 */
    uint64_t time_ns;
    int result;      /* enum mh_capture_result */
    uint8_t skip;    /* enum mh_skip, if a packet; NONE: judged */
    uint8_t outcome;
    uint8_t direction; /* enum mh_direction, of a judged packet */
    uint16_t rule;
    bool readable; /* the facts are there; else the parser refused the packet */
    mh_facts facts;
    uint32_t bytes; /* of the IP packet */
} mh_step;

/* Judges the packet at the start of data, or passes a block that is none. *consumed as of mh_capture_next(). */
void mh_audit_step(mh_audit *a, const uint8_t *data, size_t len, size_t *consumed, mh_step *s);

typedef struct {
    size_t consumed; /* bytes of data; what is left begins with an unfinished block */
    size_t written;  /* bytes of out */
    bool full;       /* out has no room for the next packet: write it away and go on */
} mh_fed;

/* Judges every whole packet of data. Outgoing packets that are not accepted are written to out, if it is not NULL, as
 * pcapng interface and packet blocks, little-endian. out_size: at least MH_CAPTURE_RECORD + 1024. */
void mh_audit_feed(mh_audit *a, const uint8_t *data, size_t len, uint8_t *out, size_t out_size, mh_fed *fed);

typedef struct {
    uint64_t packets, bytes;
} mh_tally;

typedef struct {
    uint64_t packets; /* in the file, so far */
    uint64_t bytes;   /* of the judged ones */
    mh_tally leaks;   /* outgoing and not accepted */
    uint64_t skipped[MH_SKIPS];
    uint64_t forgotten; /* flows that found no room or made some: an answer to an accepted one is judged as none */
    uint16_t rules;
    bool begun;          /* the format is known */
    const char *problem; /* why reading ended, or NULL */
} mh_audit_totals;

typedef struct {
    uint8_t src[16], dst[16];
    uint16_t sport, dport; /* 0 where there are none */
    uint8_t proto, version, direction, iface;
    uint64_t packets, bytes;
} mh_flow;

mh_audit_totals mh_audit_total(const mh_audit *a);
mh_tally mh_audit_row(const mh_audit *a, unsigned rule, unsigned outcome); /* rule = rules: refused by the parser */
/* The flows with most packets of one row, at most n of them, in falling order; returns how many. */
size_t mh_audit_top(const mh_audit *a, unsigned rule, unsigned outcome, mh_flow *flows, size_t n);

#endif
