/*
 * capture.h - reads pcap and pcapng, block by block, and finds the IP packet behind the link layer.
 *
 * Formats: pcap (micro- and nanoseconds, both byte orders), pcapng (sections, interfaces, enhanced, simple and the old
 * packet blocks). Link layers: Ethernet with VLAN tags, Linux cooked v1 and v2, raw IP, BSD loopback.
 *
 * Ownership: the caller holds the bytes; a record points into them. Threads: one at a time for one reader. Nothing is
 * trusted: every length is checked before it is used, what contradicts itself ends the reading or is a counted skip.
 */
#ifndef MH_CAPTURE_H
#define MH_CAPTURE_H

#include "facts.h"

#define MH_CAPTURE_INTERFACES 1024u
#define MH_CAPTURE_RECORD (UINT32_C(1) << 24) /* no block is longer: the caller's buffer must hold one */
#define MH_CAPTURE_NAME 64u

enum mh_capture_result {
    MH_CAPTURE_MORE,    /* the bytes end in the middle of a block */
    MH_CAPTURE_BLOCK,   /* something that is no packet */
    MH_CAPTURE_PACKET,  /* the record is filled in */
    MH_CAPTURE_DAMAGED, /* nothing can be read from here on: mh_capture.problem says why */
};

/* Why a packet is not judged. */
enum mh_skip {
    MH_SKIP_NONE,
    MH_SKIP_NOT_IP,   /* ARP and the like */
    MH_SKIP_LINK,     /* a link type that is not read */
    MH_SKIP_CUT,      /* the capture holds too little of it */
    MH_SKIP_DAMAGED,  /* its block contradicts itself */
    MH_SKIP_NOT_OURS, /* neither from nor to this machine */
    MH_SKIPS
};

enum mh_way { MH_WAY_UNKNOWN, MH_WAY_OUT, MH_WAY_IN, MH_WAY_OTHER_HOST }; /* as the capture says */

typedef struct {
    uint16_t link;
    uint8_t kind;    /* enum mh_iface, or MH_UNNAMED */
    bool binary;     /* time is in 2^-exponent seconds, else 10^-exponent */
    uint8_t exponent;
    uint32_t snaplen;
    char name[MH_CAPTURE_NAME]; /* empty: the capture does not name it */
} mh_capture_interface;
#define MH_UNNAMED 3u

typedef struct {
    uint8_t format; /* 0: not known yet */
    bool swapped;   /* the file's byte order is not little-endian */
    uint32_t section; /* pcapng: counts them, since each has interfaces of its own */
    uint32_t interfaces;
    char tunnel[MH_CAPTURE_NAME]; /* which interface is the tunnel; empty: none */
    const char *problem;
    mh_capture_interface interface[MH_CAPTURE_INTERFACES];
} mh_capture;

typedef struct {
    uint64_t time_ns;
    uint32_t interface; /* index in the section */
    uint16_t link;
    uint8_t skip;  /* enum mh_skip; NONE: ip is there */
    uint8_t way;   /* enum mh_way */
    uint8_t iface; /* enum mh_iface */
    bool group;    /* sent to a group or to all on the link */
    const uint8_t *source; /* six bytes of hardware address, or NULL */
    const uint8_t *frame;
    uint32_t captured, original; /* bytes of the frame */
    const uint8_t *ip;
    uint32_t ip_captured, ip_original;
} mh_record;

/* tunnel: the name of the tunnel's interface, or NULL. Where a capture names no interfaces, raw IP packets are taken
 * for the tunnel's then. */
void mh_capture_init(mh_capture *c, const char *tunnel);

/* Reads the block at the start of data. *consumed: its length, unless MORE or DAMAGED. Reading the same packet block
 * again gives the same record. */
int mh_capture_next(mh_capture *c, const uint8_t *data, size_t len, size_t *consumed, mh_record *r);

#endif
