/*
 * capture.c - pcap and pcapng block by block (capture.h).
 *
 * Order: which format the first bytes are; then for each block its length against the bytes that are there, its
 * fields, the link layer's header, the IP version. References: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng,
 * the registry of link types at tcpdump.org.
 */
#include "capture.h"

enum { PCAP_MICRO = 1, PCAP_NANO = 2, PCAPNG = 3 };

#define PCAP_HEADER 24u
#define PCAP_RECORD 16u
#define PCAP_SNAPLEN 262144u /* what tcpdump calls the maximum: a longer record means that we are lost */
#define SECTION UINT32_C(0x0a0d0d0a)
#define BYTE_ORDER UINT32_C(0x1a2b3c4d)
#define MAX_VLAN_TAGS 4

enum { BLOCK_INTERFACE = 1, BLOCK_PACKET_OLD = 2, BLOCK_SIMPLE = 3, BLOCK_ENHANCED = 6 };
enum { OPTION_NAME = 2, OPTION_RESOLUTION = 9, OPTION_FLAGS = 2 };
enum {
    LINK_NULL = 0,
    LINK_ETHERNET = 1,
    LINK_RAW_BSD = 12,
    LINK_RAW_OPENBSD = 14,
    LINK_RAW = 101,
    LINK_LOOP = 108,
    LINK_COOKED = 113,
    LINK_IPV4 = 228,
    LINK_IPV6 = 229,
    LINK_COOKED2 = 276
};
enum { ETHERTYPE_IP = 0x0800, ETHERTYPE_VLAN = 0x8100, ETHERTYPE_IP6 = 0x86dd, ETHERTYPE_QINQ = 0x88a8, ETHERTYPE_QINQ_OLD = 0x9100 };
enum { ARPHRD_LOOPBACK = 772, ARPHRD_NONE = 0xfffe };

static uint32_t get32(const mh_capture *c, const uint8_t *p) { return c->swapped ? mh_get32be(p) : mh_get32le(p); }
static uint16_t get16(const mh_capture *c, const uint8_t *p) {
    return c->swapped ? mh_get16be(p) : (uint16_t)(p[0] | p[1] << 8);
}

void mh_capture_init(mh_capture *c, const char *tunnel) {
    memset(c, 0, sizeof *c);
    if (tunnel)
        strncpy(c->tunnel, tunnel, sizeof c->tunnel - 1);
}

static int damaged(mh_capture *c, const char *problem) {
    c->problem = problem;
    return MH_CAPTURE_DAMAGED;
}

/* ---- the link layer ---- */

/* The payload: at bytes into the frame, if it is IP. The first nibble has the last word. */
static void payload(mh_record *r, uint32_t at) {
    if (at >= r->captured) {
        r->skip = MH_SKIP_CUT;
        return;
    }
    uint8_t version = r->frame[at] >> 4;
    if (version != 4 && version != 6) {
        r->skip = MH_SKIP_NOT_IP;
        return;
    }
    r->ip = r->frame + at;
    r->ip_captured = r->captured - at;
    r->ip_original = r->original > at + r->ip_captured ? r->original - at : r->ip_captured;
}

/* After an EtherType at type_at: VLAN tags, then IP or not. */
static void after_ethertype(mh_record *r, uint32_t type_at, uint32_t at) {
    for (int tags = 0;; tags++) {
        uint16_t type = mh_get16be(r->frame + type_at);
        if (type == ETHERTYPE_IP || type == ETHERTYPE_IP6) {
            payload(r, at);
            return;
        }
        if (tags == MAX_VLAN_TAGS || (type != ETHERTYPE_VLAN && type != ETHERTYPE_QINQ && type != ETHERTYPE_QINQ_OLD)) {
            r->skip = MH_SKIP_NOT_IP;
            return;
        }
        if (r->captured < at + 4) {
            r->skip = MH_SKIP_CUT;
            return;
        }
        type_at = at + 2;
        at += 4;
    }
}

static bool is_loopback_packet(const mh_record *r) {
    static const uint8_t loopback6[16] = {[15] = 1};
    if (r->ip[0] >> 4 == 4)
        return r->ip_captured >= 20 && r->ip[12] == 127 && r->ip[16] == 127;
    return r->ip_captured >= 40 && memcmp(r->ip + 8, loopback6, 16) == 0 && memcmp(r->ip + 24, loopback6, 16) == 0;
}

static void cooked(mh_record *r, uint8_t type, uint16_t hardware, bool *raw, bool *loopback) {
    r->way = type == 4 ? MH_WAY_OUT : type == 3 ? MH_WAY_OTHER_HOST : MH_WAY_IN;
    r->group = type == 1 || type == 2;
    *raw = hardware == ARPHRD_NONE;
    *loopback = hardware == ARPHRD_LOOPBACK;
}

/* Sets ip or skip, and what the link says of way and interface. */
static void link_layer(const mh_capture *c, const mh_capture_interface *interface, mh_record *r) {
    static const uint8_t no_address[12] = {0};
    const uint8_t *p = r->frame;
    bool raw = false, loopback = false;
    uint32_t header = 0;
    switch (r->link) {
    case LINK_ETHERNET:
        header = 14;
        break;
    case LINK_COOKED:
        header = 16;
        break;
    case LINK_COOKED2:
        header = 20;
        break;
    case LINK_NULL:
    case LINK_LOOP:
        header = 4;
        break;
    case LINK_RAW_BSD:
    case LINK_RAW_OPENBSD:
    case LINK_RAW:
    case LINK_IPV4:
    case LINK_IPV6:
        break;
    default:
        r->skip = MH_SKIP_LINK;
        return;
    }
    if (r->captured < header) {
        r->skip = MH_SKIP_CUT;
        return;
    }
    switch (r->link) {
    case LINK_ETHERNET:
        loopback = memcmp(p, no_address, 12) == 0; /* how Linux shows lo */
        r->source = p + 6;
        r->group = p[0] & 1;
        after_ethertype(r, 12, 14);
        break;
    case LINK_COOKED:
        cooked(r, p[1], mh_get16be(p + 2), &raw, &loopback);
        after_ethertype(r, 14, 16);
        break;
    case LINK_COOKED2:
        cooked(r, p[10], mh_get16be(p + 8), &raw, &loopback);
        after_ethertype(r, 0, 20);
        break;
    default: /* the address family of BSD loopback has many values, the IP version two */
        raw = true;
        payload(r, header);
        loopback = r->ip && header && is_loopback_packet(r);
    }
    if (interface->kind != MH_UNNAMED)
        r->iface = interface->kind;
    else if (loopback)
        r->iface = MH_LOOPBACK;
    else
        r->iface = raw && c->tunnel[0] ? MH_TUNNEL : MH_OTHER;
    if (r->way == MH_WAY_OTHER_HOST && r->skip == MH_SKIP_NONE)
        r->skip = MH_SKIP_NOT_OURS;
}

static void read_frame(const mh_capture *c, uint32_t index, const uint8_t *frame, uint32_t captured, uint32_t original,
                       mh_record *r) {
    const mh_capture_interface *interface = &c->interface[index];
    r->interface = index;
    r->link = interface->link;
    r->frame = frame;
    r->captured = captured;
    r->original = original < captured ? captured : original;
    link_layer(c, interface, r);
}

/* ---- pcap ---- */

static int first_bytes(mh_capture *c, const uint8_t *data, size_t len, size_t *consumed) {
    if (len < 4)
        return MH_CAPTURE_MORE;
    uint32_t magic = mh_get32le(data);
    switch (magic) {
    case SECTION:
        c->format = PCAPNG;
        *consumed = 0;
        return MH_CAPTURE_BLOCK;
    case UINT32_C(0xa1b2c3d4):
    case UINT32_C(0xd4c3b2a1):
        c->format = PCAP_MICRO;
        c->swapped = magic == UINT32_C(0xd4c3b2a1);
        break;
    case UINT32_C(0xa1b23c4d):
    case UINT32_C(0x4d3cb2a1):
        c->format = PCAP_NANO;
        c->swapped = magic == UINT32_C(0x4d3cb2a1);
        break;
    case UINT32_C(0xfd2fb528):
        return damaged(c, "it is compressed: unpack it first");
    default:
        return damaged(c, (magic & 0xffff) == 0x8b1f ? "it is compressed: unpack it first"
                                                     : "it is neither a pcap nor a pcapng file");
    }
    if (len < PCAP_HEADER) {
        c->format = 0;
        return MH_CAPTURE_MORE;
    }
    c->interfaces = 1;
    c->interface[0] = (mh_capture_interface){
        .link = (uint16_t)get32(c, data + 20), /* the upper half says whether a checksum follows the frame */
        .kind = MH_UNNAMED,
        .exponent = c->format == PCAP_NANO ? 9 : 6,
        .snaplen = get32(c, data + 16),
    };
    *consumed = PCAP_HEADER;
    return MH_CAPTURE_BLOCK;
}

static int pcap_next(mh_capture *c, const uint8_t *data, size_t len, size_t *consumed, mh_record *r) {
    if (len < PCAP_RECORD)
        return MH_CAPTURE_MORE;
    uint32_t captured = get32(c, data + 8), original = get32(c, data + 12);
    uint32_t most = c->interface[0].snaplen > PCAP_SNAPLEN ? c->interface[0].snaplen : PCAP_SNAPLEN;
    if (captured > most || captured > MH_CAPTURE_RECORD - PCAP_RECORD)
        return damaged(c, "a record's length is impossible");
    if (len - PCAP_RECORD < captured)
        return MH_CAPTURE_MORE;
    r->time_ns = get32(c, data) * UINT64_C(1000000000) + get32(c, data + 4) * (c->format == PCAP_NANO ? UINT64_C(1) : UINT64_C(1000));
    read_frame(c, 0, data + PCAP_RECORD, captured, original, r);
    *consumed = PCAP_RECORD + captured;
    return MH_CAPTURE_PACKET;
}

/* ---- pcapng ---- */

static uint64_t nanoseconds(const mh_capture_interface *interface, uint64_t time) {
    uint8_t e = interface->exponent;
    if (interface->binary) {
        if (e > 63)
            return 0;
        uint64_t rest = time & ((UINT64_C(1) << e) - 1);
        uint64_t part = e > 30 ? (rest >> (e - 30)) * UINT64_C(1000000000) >> 30 : rest * UINT64_C(1000000000) >> e;
        return (time >> e) * UINT64_C(1000000000) + part;
    }
    for (; e < 9; e++)
        time *= 10;
    for (; e > 9 && time; e--)
        time /= 10;
    return time;
}

/* The next option at *at: its value and length; false: there is none. */
static bool next_option(const mh_capture *c, const uint8_t *body, uint32_t len, uint32_t *at, uint16_t *code,
                        const uint8_t **value, uint16_t *size) {
    if (len - *at < 4)
        return false;
    *code = get16(c, body + *at);
    *size = get16(c, body + *at + 2);
    *value = body + *at + 4;
    uint32_t padded = (*size + 3u) & ~3u;
    if (*code == 0 || len - *at - 4 < padded)
        return false;
    *at += 4 + padded;
    return true;
}

static int add_interface(mh_capture *c, const uint8_t *body, uint32_t len) {
    if (len < 8)
        return damaged(c, "an interface block is too short");
    if (c->interfaces == MH_CAPTURE_INTERFACES)
        return damaged(c, "it has more than 1024 interfaces");
    mh_capture_interface *interface = &c->interface[c->interfaces++];
    *interface = (mh_capture_interface){.link = get16(c, body), .kind = MH_UNNAMED, .exponent = 6, .snaplen = get32(c, body + 4)};
    uint32_t at = 8;
    uint16_t code, size;
    const uint8_t *value;
    while (next_option(c, body, len, &at, &code, &value, &size)) {
        if (code == OPTION_NAME && size < sizeof interface->name) {
            memcpy(interface->name, value, size);
            interface->name[size] = 0;
        } else if (code == OPTION_RESOLUTION && size == 1) {
            interface->binary = value[0] >> 7;
            interface->exponent = value[0] & 127;
        }
    }
    if (strcmp(interface->name, "lo") == 0 || strcmp(interface->name, "lo0") == 0)
        interface->kind = MH_LOOPBACK;
    else if (interface->name[0] && strcmp(interface->name, c->tunnel) == 0)
        interface->kind = MH_TUNNEL;
    else if (interface->name[0] && strcmp(interface->name, "any") != 0)
        interface->kind = MH_OTHER;
    return MH_CAPTURE_BLOCK;
}

/* A packet in body[at..), for interface index. What does not hold together is skipped: the block's length stands. */
static int packet_block(const mh_capture *c, uint32_t index, const uint8_t *body, uint32_t len, uint32_t at,
                        uint32_t captured, uint32_t original, uint64_t time, mh_record *r) {
    if (index >= c->interfaces || captured > len - at) {
        r->skip = MH_SKIP_DAMAGED;
        return MH_CAPTURE_PACKET;
    }
    r->time_ns = nanoseconds(&c->interface[index], time);
    read_frame(c, index, body + at, captured, original, r);
    return MH_CAPTURE_PACKET;
}

static int enhanced(const mh_capture *c, const uint8_t *body, uint32_t len, mh_record *r) {
    if (len < 20) {
        r->skip = MH_SKIP_DAMAGED;
        return MH_CAPTURE_PACKET;
    }
    uint32_t captured = get32(c, body + 12);
    uint64_t time = (uint64_t)get32(c, body + 4) << 32 | get32(c, body + 8);
    packet_block(c, get32(c, body), body, len, 20, captured, get32(c, body + 16), time, r);
    if (r->skip == MH_SKIP_DAMAGED)
        return MH_CAPTURE_PACKET;
    uint32_t padded = (captured + 3) & ~3u; /* captured fits, so this cannot overflow */
    uint32_t at = 20 + padded;
    uint16_t code, size;
    const uint8_t *value;
    while (at <= len && next_option(c, body, len, &at, &code, &value, &size))
        if (code == OPTION_FLAGS && size == 4) {
            uint32_t way = get32(c, value) & 3;
            if (way)
                r->way = way == 2 ? MH_WAY_OUT : way == 1 ? MH_WAY_IN : r->way;
        }
    return MH_CAPTURE_PACKET;
}

static int simple(const mh_capture *c, const uint8_t *body, uint32_t len, mh_record *r) {
    if (len < 4 || c->interfaces == 0) {
        r->skip = MH_SKIP_DAMAGED;
        return MH_CAPTURE_PACKET;
    }
    uint32_t original = get32(c, body), captured = original;
    uint32_t snaplen = c->interface[0].snaplen;
    if (snaplen && captured > snaplen)
        captured = snaplen;
    return packet_block(c, 0, body, len, 4, captured, original, 0, r);
}

static int old_packet(const mh_capture *c, const uint8_t *body, uint32_t len, mh_record *r) {
    if (len < 20) {
        r->skip = MH_SKIP_DAMAGED;
        return MH_CAPTURE_PACKET;
    }
    uint64_t time = (uint64_t)get32(c, body + 4) << 32 | get32(c, body + 8);
    return packet_block(c, get16(c, body), body, len, 20, get32(c, body + 12), get32(c, body + 16), time, r);
}

static int pcapng_next(mh_capture *c, const uint8_t *data, size_t len, size_t *consumed, mh_record *r) {
    if (len < 12)
        return MH_CAPTURE_MORE;
    bool section = mh_get32le(data) == SECTION;
    if (section) {
        if (mh_get32le(data + 8) == BYTE_ORDER)
            c->swapped = false;
        else if (mh_get32be(data + 8) == BYTE_ORDER)
            c->swapped = true;
        else
            return damaged(c, "a section has no byte order");
    }
    uint32_t type = get32(c, data), total = get32(c, data + 4);
    if (total < (section ? 28u : 12u) || total % 4 || total > MH_CAPTURE_RECORD)
        return damaged(c, "a block's length is impossible");
    if (len < total)
        return MH_CAPTURE_MORE;
    if (get32(c, data + total - 4) != total)
        return damaged(c, "a block's two lengths contradict each other");
    *consumed = total;
    const uint8_t *body = data + 8;
    uint32_t size = total - 12;
    if (section) {
        c->section++;
        c->interfaces = 0;
        return MH_CAPTURE_BLOCK;
    }
    switch (type) {
    case BLOCK_INTERFACE:
        return add_interface(c, body, size);
    case BLOCK_ENHANCED:
        return enhanced(c, body, size, r);
    case BLOCK_SIMPLE:
        return simple(c, body, size, r);
    case BLOCK_PACKET_OLD:
        return old_packet(c, body, size, r);
    default:
        return MH_CAPTURE_BLOCK;
    }
}

int mh_capture_next(mh_capture *c, const uint8_t *data, size_t len, size_t *consumed, mh_record *r) {
    memset(r, 0, sizeof *r);
    r->iface = MH_OTHER;
    *consumed = 0;
    if (c->problem)
        return MH_CAPTURE_DAMAGED;
    if (!c->format)
        return first_bytes(c, data, len, consumed);
    return c->format == PCAPNG ? pcapng_next(c, data, len, consumed, r) : pcap_next(c, data, len, consumed, r);
}
