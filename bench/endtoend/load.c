/*
 * load.c - UDP packets, made and counted: what iperf3 does, cheaply enough to leave the machine to what is measured.
 *
 *     load send ADDRESS PORT BYTES PER_SECOND SECONDS     PER_SECOND 0: as many as go. Prints how many were sent.
 *     load receive ADDRESS PORT                           prints, when a second has passed without a packet,
 *                                                         how many came, and the seconds from the first to the last
 *
 * A paced sender wakes every millisecond and sends what is due by then. IPv4 only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 32
#define ROOM 2048
#define BUFFER (4 << 20) /* of the receiving socket */

static struct mmsghdr messages[BATCH];
static struct iovec iov[BATCH];
static char bytes[BATCH][ROOM];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int fail(const char *what) {
    perror(what);
    return 1;
}

static int send_all(int fd, size_t size, double per_second, double seconds) {
    for (int i = 0; i < BATCH; i++) iov[i].iov_len = size;
    const double begin = now(), end = begin + seconds;
    unsigned long sent = 0;
    for (double time = begin; time < end; time = now()) {
        const double due = per_second > 0 ? (time - begin) * per_second - (double)sent : BATCH;
        if (due < 1) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            continue;
        }
        const int n = sendmmsg(fd, messages, due < BATCH ? (unsigned)due : BATCH, 0);
        if (n > 0)
            sent += (unsigned long)n;
        else if (errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
            return fail("sendmmsg");
    }
    printf("%lu\n", sent);
    return 0;
}

static int receive_all(int fd) {
    const int room = BUFFER;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    for (int i = 0; i < BATCH; i++) iov[i].iov_len = ROOM;
    unsigned long packets = 0;
    double first = 0, last = 0;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    while (poll(&wait, 1, packets ? 1000 : 10000) > 0) {
        const int n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
        if (n <= 0) continue;
        last = now();
        if (!packets) first = last;
        packets += (unsigned long)n;
    }
    printf("%lu %.6f\n", packets, last - first);
    return 0;
}

int main(int argc, char **argv) {
    const bool sends = argc == 7 && strcmp(argv[1], "send") == 0;
    if (!sends && !(argc == 4 && strcmp(argv[1], "receive") == 0)) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
    if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) return 2;
    for (int i = 0; i < BATCH; i++) {
        iov[i].iov_base = bytes[i];
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
    }
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0) return fail("socket");
    if (!sends) return bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ? fail("bind") : receive_all(fd);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return fail("connect");
    const long size = atol(argv[4]);
    return size < 1 || size > ROOM ? 2 : send_all(fd, (size_t)size, atof(argv[5]), atof(argv[6]));
}
