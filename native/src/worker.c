/*
 * worker.c - one worker: its buffers, its thread, its turns.
 *
 * The thread: epoch odd -> load snapshot and sockets -> outward, inward -> epoch even -> epoll_wait, without a timeout,
 * unless a direction has used up its turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "datapath.h"
#include "worker.h"

#define PACKETS (MH_TUN | MH_UDP4 | MH_UDP6)

mh_verdict mh_worker_judge(mh_worker *w, const mh_facts *f, const mh_decision *recalled, mh_peer *peer, uint32_t packets) {
    mh_snapshot *s = w->snapshot;
    const mh_verdict v = recalled ? recalled->verdict : mh_filter(s ? s->program : NULL, w->fragments, f, w->now_ns);
    if (!recalled && f->fragment == MH_WHOLE)
        w->last[f->direction == MH_IN] = (mh_decision){.facts = *f, .verdict = v, .peer = peer, .known = true};
    if (s && v.rule < s->rules) {
        mh_rule_count *count = &s->counts[w->number * s->rules + v.rule];
        mh_count(&count->packets, packets);
        mh_count(&count->bytes, f->total_len);
    }
    return v;
}

/* Both directions once, as far as there may be something. 0, or the errno for which the TUN is gone. */
static int turn(mh_worker *w, unsigned ready) {
    mh_datapath *d = w->d;
    atomic_fetch_add(&w->epoch, 1);
    w->snapshot = atomic_load(&d->snapshot);
    mh_udp *sockets = atomic_load(&d->sockets);
    w->sockets = sockets ? &sockets[w->number] : NULL;
    w->now_ns = mh_now_ns();
    mh_count(&w->work.turns, 1);
    int gone = 0;
    w->more = w->full = w->last[0].known = w->last[1].known = false;
    if (ready & MH_TUN) gone = mh_outward(w);
    if (ready & MH_UDP4 && w->sockets && !gone) gone = mh_inward(w, w->sockets->fd4);
    if (ready & MH_UDP6 && w->sockets && !gone) gone = mh_inward(w, w->sockets->fd6);
    atomic_fetch_add(&w->epoch, 1);
    return gone;
}

int mh_worker_turn(mh_worker *w) { return turn(w, PACKETS); }

/* The TUN is gone: told once, whoever sees it first; and no worker goes on. */
static void tell_stopped(mh_datapath *d, int gone) {
    if (atomic_exchange(&d->stop, true)) return;
    for (unsigned i = 0; i < d->n_workers; i++) mh_worker_wake(d->worker[i]);
    mh_event e;
    memset(&e, 0, offsetof(mh_event, data));
    e.kind = MH_EVENT_STOPPED;
    e.error = gone;
    if (!mh_ring_push(d->ring, &e)) {
        atomic_store(&d->stopped, gone);
        atomic_store(&d->unsent, true);
        mh_ring_wake(d->ring);
    }
}

static void *run(void *argument) {
    mh_worker *w = argument;
    struct epoll_event events[4];
    int gone = turn(w, PACKETS);
    while (!gone && !atomic_load(&w->d->stop)) {
        if (w->more) { /* there is work: the kernel need not be asked */
            gone = turn(w, PACKETS);
            continue;
        }
        const int n = epoll_wait(w->epoll_fd, events, 4, -1); /* EINTR: all signals are blocked, but a debugger may stop us */
        unsigned ready = 0;
        bool deleted = false;
        for (int i = 0; i < n; i++) {
            ready |= events[i].data.u32;
            deleted |= events[i].data.u32 == MH_TUN && (events[i].events & EPOLLERR);
        }
        if (ready & MH_WAKE) {
            uint64_t count;
            ssize_t ignored = read(w->wake_fd, &count, sizeof count);
            (void)ignored;
        }
        gone = turn(w, ready);
        if (!gone && deleted) gone = EIO;
    }
    if (gone) tell_stopped(w->d, gone);
    return NULL;
}

int mh_worker_start(mh_worker *w) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's business */
    const int error = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error) pthread_setname_np(w->thread, "molehill-data");
    return error;
}

void mh_worker_join(mh_worker *w) {
    mh_worker_wake(w);
    pthread_join(w->thread, NULL);
}

void mh_worker_wake(mh_worker *w) {
    const uint64_t one = 1;
    ssize_t ignored = write(w->wake_fd, &one, sizeof one); /* full means it is awake already */
    (void)ignored;
}

int mh_worker_watch(const mh_worker *w, int fd, unsigned what) {
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = what};
    return fd < 0 || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0 || errno == EEXIST ? 0 : errno;
}

void mh_worker_watch_no_longer(const mh_worker *w, int fd) {
    if (fd >= 0) (void)epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* a closed one has gone by itself */
}

mh_worker *mh_worker_new(mh_datapath *d, unsigned number, int tun_fd, bool vnet_hdr) {
    mh_worker *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->d = d;
    w->number = number;
    w->tun.vnet_hdr = vnet_hdr;
    w->fragments = mh_fragments_new();
    const bool backlog = mh_backlog_init(&w->backlog);
    w->wire = malloc(MH_WIRE_BYTES);
    w->inbox = mh_udp_inbox_new();
    w->scratch = malloc(MH_READ_BYTES);
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->tun.fd = fcntl(tun_fd, F_DUPFD_CLOEXEC, 0);
    const int flags = w->tun.fd < 0 ? -1 : fcntl(w->tun.fd, F_GETFL);
    int error = 0;
    if (w->epoll_fd < 0 || w->wake_fd < 0 || flags < 0 || fcntl(w->tun.fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        mh_worker_watch(w, w->wake_fd, MH_WAKE) != 0 || mh_worker_watch(w, w->tun.fd, MH_TUN) != 0)
        error = errno;
    else if (!w->fragments || !backlog || !w->wire || !w->inbox || !w->scratch)
        error = ENOMEM;
    if (!error) return w;
    mh_worker_free(w);
    errno = error;
    return NULL;
}

void mh_worker_free(mh_worker *w) {
    if (!w) return;
    if (w->tun.fd >= 0) close(w->tun.fd);
    if (w->wake_fd >= 0) close(w->wake_fd);
    if (w->epoll_fd >= 0) close(w->epoll_fd);
    if (w->fragments) mh_fragments_free(w->fragments);
    mh_backlog_free(&w->backlog);
    free(w->wire);
    mh_udp_inbox_free(w->inbox);
    free(w->scratch);
    free(w);
}

static uint32_t mix(uint32_t h) {
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

uint16_t mh_lane(const mh_facts *f) {
    uint32_t sum = f->proto;
    for (size_t i = 0; i < 16; i += 4) sum += mix(mh_get32be(f->src + i) + (uint32_t)i) + mix(mh_get32be(f->dst + i) + (uint32_t)i);
    if (f->fragment == MH_WHOLE) sum += mix(f->sport) + mix(f->dport);
    return (uint16_t)(mix(sum) % MH_LANES);
}
