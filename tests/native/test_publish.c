/*
 * test_publish.c - replacing the policy, and everything else, under load. Meant for TSan and ASan.
 *
 * Two policies differ in all they say: the even ones let port 1000 pass and route to peer 0, the odd ones port 2000
 * and peer 1. Each packet carries the number of the newest policy whose publish() had returned when it was written
 * into the TUN. Then no packet may ever arrive that neither policy lets pass as a whole (one's port at the other's
 * peer), nor one that only a policy replaced before it was written could have let pass. With one worker, and with four,
 * which then seal for the same sessions: no counter may come twice, or the far side's replay window refuses it.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "checksum.h"
#include "datapath.h"
#include "verdict.h"

#define GENERATIONS 3000
#define BURST 16
#define MOST 4 /* workers */

static const uint16_t ports[2] = {1000, 2000};

typedef struct {
    mh_datapath *d;
    unsigned workers;
    int tun[MOST], udp[MOST], far[2]; /* far: where the peers are */
    mh_peer *peers[2];
    pthread_mutex_t lock; /* of the sessions below */
    mh_session *ours[2], *theirs[2];
    atomic_ullong started, published; /* generations */
    atomic_ullong written, arrived, delivered;
    atomic_bool done;
} rig;

/* Two rules: UDP and TCP to this port pass; P-0. */
static size_t one_port(uint8_t *b, uint16_t port) {
    size_t at = 24;
    memset(b, 0, 1024);
    memcpy(b, "MHVP", 4);
    b[4] = 1;
    b[6] = 2;
    b[8] = 1;
    b[10] = MH_DIMENSIONS;
    b[16] = 1;
    for (int dim = 0; dim < MH_DIMENSIONS; dim++) {
        const size_t width = dim < MH_DIM_SRC6 ? 8 : 16, n = dim == MH_DIM_DPORT ? 3 : 1;
        mh_put64le(b + at, n);
        for (size_t i = 1; i < n; i++) mh_put64le(b + at + 8 + i * width, (uint64_t)port + i - 1);
        at += 8 + n * width;
        for (size_t i = 0; i < n; i++, at += 8) mh_put64le(b + at, n == 3 && i != 1 ? 2 : 3);
    }
    mh_put32le(b + 12, (uint32_t)at);
    return at;
}

static int bound_socket(int kind) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_DGRAM | kind, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
    return fd;
}

static mh_endpoint endpoint_of(int fd) {
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    mh_endpoint e;
    CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0 && mh_endpoint_from_sockaddr(&e, &a));
    return e;
}

static void install(rig *r, int i, uint32_t index, bool initiator) {
    const uint8_t key[32] = {(uint8_t)i, 7};
    pthread_mutex_lock(&r->lock);
    mh_session_free(r->ours[i]);
    mh_session_free(r->theirs[i]);
    r->ours[i] = mh_session_new(key, initiator, index, index + 1, mh_now_ns());
    r->theirs[i] = mh_session_new(key, !initiator, index + 1, index, mh_now_ns());
    CHECK(r->ours[i] && r->theirs[i]);
    pthread_mutex_unlock(&r->lock);
    CHECK(mh_peer_install_session(r->d, r->peers[i], r->ours[i]) == 0);
}

static const int none[MOST] = {-1, -1, -1, -1};

static void set_up(rig *r, unsigned workers) {
    memset(r, 0, sizeof *r);
    pthread_mutex_init(&r->lock, NULL);
    r->workers = workers;
    int queues[MOST], error;
    for (unsigned i = 0; i < workers; i++) {
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
        r->tun[i] = pair[0];
        queues[i] = pair[1];
        r->udp[i] = bound_socket(SOCK_NONBLOCK);
    }
    CHECK((r->d = mh_datapath_new(queues, workers, false, 0, 1420, &error)) != NULL);
    for (unsigned i = 0; i < workers; i++) close(queues[i]);
    CHECK(mh_datapath_set_sockets(r->d, r->udp, none, true) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK((r->peers[i] = mh_datapath_add_peer(r->d)) != NULL);
        r->far[i] = bound_socket(0);
        const mh_endpoint e = endpoint_of(r->far[i]);
        mh_peer_set_endpoint(r->peers[i], &e);
        install(r, i, 10 + 10 * (uint32_t)i, true);
    }
}

static void tear_down(rig *r) {
    mh_datapath_free(r->d);
    for (int i = 0; i < 2; i++) {
        mh_session_free(r->ours[i]);
        mh_session_free(r->theirs[i]);
        close(r->far[i]);
    }
    for (unsigned i = 0; i < r->workers; i++) {
        close(r->udp[i]);
        close(r->tun[i]);
    }
}

/* Returns how many packets the replaced policy had judged. */
static uint64_t publish(rig *r, uint64_t generation) {
    uint8_t code[1024];
    const size_t len = one_port(code, ports[generation & 1]);
    const mh_prefix route = {.family = 4, .owner = r->peers[generation & 1]};
    uint64_t packets[4] = {0}, bytes[4] = {0};
    const int rules = mh_datapath_publish(r->d, code, len, &route, 1, packets, bytes, 4);
    CHECK(rules == (generation ? 2 : 0));
    return packets[0] + packets[1];
}

static size_t packet(uint8_t *b, uint16_t port, uint64_t stamp) {
    memset(b, 0, 36);
    b[0] = 0x45;
    b[3] = 36;
    b[8] = 64;
    b[9] = IPPROTO_UDP;
    b[12] = b[16] = 10;
    b[15] = 1;
    b[19] = 2;
    mh_put16be(b + 22, port);
    b[25] = 16;
    mh_put64le(b + 28, stamp);
    mh_checksum_ipv4(b, 20);
    return 36;
}

static void *writer(void *argument) {
    rig *r = argument;
    uint8_t b[64];
    for (uint64_t n = 0; !atomic_load(&r->done); n++) {
        const size_t len = packet(b, ports[n & 1], atomic_load(&r->published));
        CHECK(send(r->tun[n / 3 % r->workers], b, len, 0) == (ssize_t)len);
        atomic_fetch_add(&r->written, 1);
        for (unsigned i = 0; i < r->workers; i++)
            while (recv(r->tun[i], b, sizeof b, MSG_DONTWAIT) > 0) atomic_fetch_add(&r->delivered, 1);
        if (n % BURST == 0) usleep(50);
    }
    return NULL;
}

/* Reads one message that came to peer i and checks the claims. */
static void check_arrival(rig *r, int i) {
    uint8_t m[256], reason;
    const ssize_t n = recv(r->far[i], m, sizeof m, 0);
    const uint64_t started = atomic_load(&r->started);
    uint32_t index;
    mh_aead_job job = {.data = m + MH_DATA_HEADER_LEN, .len = (uint32_t)n - MH_DATA_OVERHEAD};
    CHECK(n >= MH_DATA_OVERHEAD + 36 && mh_data_header_get(m, (size_t)n, &index, &job.counter));
    CHECK(mh_session_open(r->theirs[i], &job, &reason, 1, mh_now_ns()) == 1);
    const uint16_t port = mh_get16be(job.data + 22);
    const uint64_t stamp = mh_get64le(job.data + 28);
    CHECK(port == ports[i]);                             /* one policy's port, and that policy's route */
    CHECK((stamp & 1) == (unsigned)i || started > stamp); /* else only a policy replaced before could have passed it */
    atomic_fetch_add(&r->arrived, 1);
}

static void *reader(void *argument) {
    rig *r = argument;
    struct pollfd fds[2] = {{.fd = r->far[0], .events = POLLIN}, {.fd = r->far[1], .events = POLLIN}};
    while (poll(fds, 2, 200) > 0 || !atomic_load(&r->done))
        for (int i = 0; i < 2; i++)
            if (fds[i].revents & POLLIN) check_arrival(r, i);
    return NULL;
}

static void replace_policies(unsigned workers) {
    static rig r;
    pthread_t threads[2];
    uint64_t judged = 0;
    set_up(&r, workers);
    CHECK(publish(&r, 0) == 0);
    CHECK(mh_datapath_start(r.d) == 0);
    CHECK(pthread_create(&threads[0], NULL, writer, &r) == 0 && pthread_create(&threads[1], NULL, reader, &r) == 0);
    for (uint64_t generation = 1; generation <= GENERATIONS; generation++) {
        atomic_store(&r.started, generation);
        judged += publish(&r, generation);
        atomic_store(&r.published, generation);
        if (generation % 4 == 0) usleep(300);
    }
    atomic_store(&r.done, true);
    pthread_join(threads[0], NULL);
    mh_statistics s = {0};
    for (int i = 0; i < 1000 && s.tun_reads < atomic_load(&r.written); i++, usleep(5000)) mh_datapath_statistics(r.d, &s);
    pthread_join(threads[1], NULL);
    judged += publish(&r, GENERATIONS + 1);
    CHECK(judged == atomic_load(&r.written)); /* each by exactly one, and every count was final */
    CHECK(atomic_load(&r.arrived) > judged / 100);
    tear_down(&r);
}

static void no_packet_is_judged_by_a_mixture_or_by_a_policy_already_replaced(void) { replace_policies(1); }
static void nor_by_any_of_four_workers(void) { replace_policies(MOST); }

/* The other side: a packet back for each that comes, and now and then one unasked, to confirm a session. */
static void *answer(void *argument) {
    rig *r = argument;
    uint8_t m[256];
    struct pollfd fds[2] = {{.fd = r->far[0], .events = POLLIN}, {.fd = r->far[1], .events = POLLIN}};
    struct sockaddr_storage to[MOST];
    socklen_t len = 0;
    unsigned turn = 0;
    for (unsigned i = 0; i < r->workers; i++) {
        const mh_endpoint e = endpoint_of(r->udp[i]);
        len = mh_endpoint_to_sockaddr(&e, &to[i]);
    }
    while (!atomic_load(&r->done)) {
        poll(fds, 2, 5);
        for (int i = 0; i < 2; i++) {
            if (recv(r->far[i], m, sizeof m, MSG_DONTWAIT) > 0) atomic_fetch_add(&r->arrived, 1);
            memset(m, 0, sizeof m);
            packet(m + MH_DATA_HEADER_LEN, ports[i], 0);
            mh_aead_job job = {.data = m + MH_DATA_HEADER_LEN, .len = 48};
            pthread_mutex_lock(&r->lock);
            CHECK(mh_session_seal(r->theirs[i], &job, 1, mh_now_ns()) == 1);
            pthread_mutex_unlock(&r->lock);
            (void)sendto(r->far[i], m, 48 + MH_DATA_OVERHEAD, 0, (struct sockaddr *)&to[turn++ % r->workers], len);
        }
    }
    return NULL;
}

static void call_everything(unsigned workers) {
    static rig r;
    pthread_t threads[2];
    uint64_t seed = 4711;
    set_up(&r, workers);
    publish(&r, 0);
    CHECK(mh_datapath_start(r.d) == 0);
    CHECK(pthread_create(&threads[0], NULL, writer, &r) == 0 && pthread_create(&threads[1], NULL, answer, &r) == 0);
    mh_traffic t;
    mh_endpoint e;
    mh_event event;
    mh_offloads o;
    mh_statistics s;
    uint64_t a[64], b[64];
    for (uint32_t step = 1; step <= 2000; step++) {
        const int i = (int)random_below(&seed, 2);
        switch (random_below(&seed, 12)) {
        case 0: install(&r, i, 100 + 2 * step, random_below(&seed, 2)); break;
        case 1: mh_peer_erase_keys(r.d, r.peers[i]); break;
        case 2: mh_peer_get_endpoint(r.peers[i], &e), mh_peer_set_endpoint(r.peers[i], &e); break;
        case 3: mh_peer_get_traffic(r.peers[i], &t), mh_peer_disarm(r.peers[i]), mh_peer_handshake_done(r.peers[i]); break;
        case 4: CHECK(mh_datapath_set_sockets(r.d, r.udp, none, step & 1) == 0); break;
        case 5: (void)mh_peer_send_packet(r.d, r.peers[i], NULL, 0); break;
        case 6: mh_peer_drop_staged(r.d, r.peers[i]); break;
        case 7: while (mh_datapath_event(r.d, &event)); break;
        case 8: mh_datapath_verdicts(r.d, a, b, 64), mh_datapath_drops(r.d, a, 64); break;
        case 9: mh_datapath_offloads(r.d, &o), mh_datapath_statistics(r.d, &s), mh_datapath_set_mtu(r.d, 1280 + step % 100); break;
        case 10: {
            mh_peer *p = mh_datapath_add_peer(r.d);
            CHECK(p != NULL);
            mh_datapath_remove_peer(r.d, p);
            break;
        }
        default: {
            uint8_t code[1024];
            const size_t len = one_port(code, ports[i]);
            const mh_prefix routes[2] = {{.family = 4, .owner = r.peers[i]}, {.family = 6, .owner = r.peers[!i]}};
            CHECK(mh_datapath_publish(r.d, code, len, routes, 2, a, b, 64) == 2);
        }
        }
    }
    mh_datapath_stop(r.d);
    CHECK(mh_datapath_start(r.d) == 0);
    atomic_store(&r.done, true);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    CHECK(atomic_load(&r.arrived) > 0 && atomic_load(&r.delivered) > 0);
    tear_down(&r);
}

static void every_control_call_runs_beside_the_packets(void) { call_everything(1); }
static void and_beside_those_of_four_workers(void) { call_everything(MOST); }

int main(void) {
    RUN(no_packet_is_judged_by_a_mixture_or_by_a_policy_already_replaced);
    RUN(nor_by_any_of_four_workers);
    RUN(every_control_call_runs_beside_the_packets);
    RUN(and_beside_those_of_four_workers);
    return 0;
}
