/*
 * ring.c - the bounded queue of events. The mutex is held for one copy of a message; events are rare.
 */
#include "ring.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mh_ring {
    pthread_mutex_t lock;
    int fd;
    uint32_t mask;       /* slots - 1 */
    uint32_t head, tail; /* pushed and popped so far, modulo 2^32 */
    mh_event at[];
};

mh_ring *mh_ring_new(uint32_t slots) {
    if (slots == 0 || (slots & (slots - 1)) != 0)
        return NULL;
    mh_ring *r = calloc(1, sizeof *r + slots * sizeof r->at[0]);
    if (!r)
        return NULL;
    r->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (r->fd < 0) {
        free(r);
        return NULL;
    }
    pthread_mutex_init(&r->lock, NULL); /* a default mutex: cannot fail on Linux */
    r->mask = slots - 1;
    return r;
}

void mh_ring_free(mh_ring *r) {
    if (!r)
        return;
    close(r->fd);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

int mh_ring_fd(const mh_ring *r) { return r->fd; }

uint32_t mh_ring_depth(mh_ring *r) {
    pthread_mutex_lock(&r->lock);
    const uint32_t depth = r->head - r->tail;
    pthread_mutex_unlock(&r->lock);
    return depth;
}

void mh_ring_wake(mh_ring *r) { eventfd_write(r->fd, 1); }

/* An event has its message's length, not the size of its slot. */
static void copy(mh_event *to, const mh_event *from) {
    memcpy(to, from, offsetof(mh_event, data));
    memcpy(to->data, from->data, from->len);
}

bool mh_ring_push(mh_ring *r, const mh_event *e) {
    if (e->len > MH_EVENT_DATA_MAX)
        return false;
    pthread_mutex_lock(&r->lock);
    bool room = r->head - r->tail <= r->mask;
    if (room) {
        copy(&r->at[r->head & r->mask], e);
        if (r->head++ == r->tail)
            eventfd_write(r->fd, 1); /* cannot fail: the counter is far from its limit */
    }
    pthread_mutex_unlock(&r->lock);
    return room;
}

bool mh_ring_pop(mh_ring *r, mh_event *e) {
    pthread_mutex_lock(&r->lock);
    bool some = r->head != r->tail;
    if (some) {
        copy(e, &r->at[r->tail++ & r->mask]);
        e->depth = r->head - r->tail;
    } else {
        eventfd_t ignored;
        eventfd_read(r->fd, &ignored); /* fails if it was drained already, which is as good */
    }
    pthread_mutex_unlock(&r->lock);
    return some;
}
