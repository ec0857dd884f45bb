/*
 * fuzz_inbound.c - a datagram from the wire into the datapath's inward path, as far as the TUN.
 *
 * The first byte chooses: the rest is a raw datagram (of one segment, or cut as GRO would give it); or a script of
 * inner packets, which a peer seals, so that the fuzzer gets beyond the tag. What may never happen: a byte read or written
 * outside, or a packet in the TUN that does not parse or whose virtio header does not fit it.
 */
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "datapath.h"
#include "worker.h"

#define CHECK(claim) \
    do {             \
        if (!(claim)) abort(); \
    } while (0)

static mh_datapath *d;
static mh_peer *peer;
static mh_session *theirs;
static int tun;

/* One rule more than none: everything passes, then P-0. */
static size_t pass_all(uint8_t *b) {
    size_t at = 24;
    memcpy(b, "MHVP", 4);
    b[4] = 1;
    b[6] = 2;
    b[8] = 1;
    b[10] = MH_DIMENSIONS;
    b[16] = 1;
    for (int dim = 0; dim < MH_DIMENSIONS; dim++) {
        mh_put64le(b + at, 1);
        at += dim < MH_DIM_SRC6 ? 16 : 24;
        mh_put64le(b + at, 3);
        at += 8;
    }
    mh_put32le(b + 12, (uint32_t)at);
    return at;
}

static void set_up(void) {
    static uint8_t code[1024];
    int pair[2], error;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    tun = pair[0];
    CHECK((d = mh_datapath_new(&pair[1], 1, true, 0x7F, 1420, &error)) != NULL);
    CHECK((peer = mh_datapath_add_peer(d)) != NULL);
    const mh_prefix routes[2] = {{.family = 4, .owner = peer}, {.family = 6, .owner = peer}};
    CHECK(mh_datapath_publish(d, code, pass_all(code), routes, 2, NULL, NULL, 0) == 0);
}

/* Sessions age: a new one now and then. */
static void renew(void) {
    static unsigned runs;
    static const uint8_t key[32] = {5};
    if (runs++ % 50000) return;
    mh_session_free(theirs);
    mh_session *ours = mh_session_new(key, true, runs, 1, mh_now_ns());
    theirs = mh_session_new(key, false, 1, runs, mh_now_ns());
    CHECK(ours && theirs && mh_peer_install_session(d, peer, ours) == 0);
    mh_session_free(ours);
}

static void check_tun(void) {
    static uint8_t got[1 << 17];
    ssize_t n;
    while ((n = recv(tun, got, sizeof got, MSG_DONTWAIT)) > 0) {
        mh_vnet_hdr h;
        mh_facts f;
        mh_split s;
        CHECK(n > MH_VNET_HDR_LEN);
        memcpy(&h, got, sizeof h);
        const size_t len = (size_t)n - sizeof h;
        CHECK(mh_parse(got + sizeof h, len, &f) == 0 && f.total_len == len);
        CHECK(mh_split_begin(&s, &h, got + sizeof h, len, &f) == 0);
    }
}

/* Seals the script's packets end to end; each of `stride` bytes but the last. Returns the length. */
static uint32_t seal_script(uint8_t *out, size_t room, uint32_t stride, const uint8_t *script, size_t size) {
    uint32_t at = 0;
    while (size && at + stride + MH_DATA_OVERHEAD <= room) {
        const uint32_t len = size < stride ? (uint32_t)size : stride;
        memcpy(out + at + MH_DATA_HEADER_LEN, script, len);
        mh_aead_job job = {.data = out + at + MH_DATA_HEADER_LEN, .len = len};
        CHECK(mh_session_seal(theirs, &job, 1, mh_now_ns()) == 1);
        at += len + MH_DATA_OVERHEAD;
        script += len;
        size -= len;
    }
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!d) set_up();
    if (size < 3) return 0;
    renew();
    const uint32_t stride = 1 + mh_get16be(data + 1) % 2000;
    uint8_t *buffer = malloc(65536); /* its end is watched only for raw datagrams, copied to the end */
    CHECK(buffer);
    mh_datagram g = {.tos = data[0] >> 6, .from = {.family = 4, .port = 9, .addr = {192, 0, 2, data[0] >> 5}}};
    if (data[0] & 1) {
        g.data = buffer;
        g.len = seal_script(buffer, 65536, stride, data + 3, size - 3);
        g.segment = stride + MH_DATA_OVERHEAD;
    } else {
        g.len = (uint32_t)(size - 3 < 65536 ? size - 3 : 65536);
        g.data = buffer + 65536 - g.len;
        memcpy(g.data, data + 3, g.len);
        g.segment = data[0] & 2 ? stride : g.len;
    }
    mh_worker *w = d->worker[0];
    w->snapshot = atomic_load(&d->snapshot);
    w->now_ns = mh_now_ns();
    CHECK(mh_inward_datagram(w, &g) == 0 && mh_inward_finish(w) == 0);
    free(buffer);
    check_tun();
    mh_event e;
    while (mh_datapath_event(d, &e)) CHECK(e.len <= MH_EVENT_DATA_MAX);
    return 0;
}
