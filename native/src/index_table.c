/*
 * index_table.c - open addressing with linear probing over atomic pointers to immutable entries.
 *
 * A reader loads the current slots, then one slot after the other until it meets its index or an empty slot. The
 * writer publishes an entry by one release store and removes it by storing a tombstone. When more than half of the
 * slots are used, it builds a new array (without the tombstones) and publishes that; what it replaced waits in the
 * retired list for reclaim().
 */
#include "index_table.h"

#include <stdatomic.h>
#include <stdlib.h>

#define FIRST_SLOTS 16

/* Head of whatever readers may still see after it was replaced. */
typedef struct retired {
    struct retired *next;
} retired;

typedef struct {
    retired link;
    uint32_t index;
    mh_session *session;
    void *owner;
} entry;

typedef struct {
    retired link;
    size_t mask; /* number of slots - 1; the number is a power of two */
    _Atomic(entry *) at[];
} slots;

struct mh_index_table {
    _Atomic(slots *) current;
    size_t live;  /* entries */
    size_t taken; /* entries and tombstones */
    retired *garbage;
};

static const entry tombstone; /* its address is its meaning */
#define TOMBSTONE ((entry *)&tombstone)

/* Indices are random when we choose them, but the spread must not depend on that. */
static size_t home(uint32_t index) { return (index * UINT32_C(2654435769)) >> 7; }

static slots *slots_new(size_t n) {
    slots *s = malloc(sizeof *s + n * sizeof s->at[0]);
    if (!s)
        return NULL;
    s->mask = n - 1;
    for (size_t i = 0; i < n; i++)
        atomic_init(&s->at[i], NULL);
    return s;
}

static void retire(mh_index_table *t, retired *r) {
    r->next = t->garbage;
    t->garbage = r;
}

/* The entry of index, or NULL; *slot is where it is, or the empty slot where the search ended (there is always one).
 * Each slot is loaded once: an empty slot may be filled, an entry buried, while we look. */
static entry *probe(slots *s, uint32_t index, _Atomic(entry *) **slot) {
    for (size_t i = home(index);; i++) {
        *slot = &s->at[i & s->mask];
        entry *e = atomic_load(*slot);
        if (!e || (e != TOMBSTONE && e->index == index))
            return e;
    }
}

/* Puts an array with room for one entry more, and without tombstones, in the place of the current one. */
static bool regrow(mh_index_table *t) {
    slots *old = atomic_load(&t->current);
    size_t n = FIRST_SLOTS;
    while (n < 4 * (t->live + 1))
        n *= 2;
    slots *new = slots_new(n);
    if (!new)
        return false;
    for (size_t i = 0; i <= old->mask; i++) {
        entry *e = atomic_load(&old->at[i]);
        if (e && e != TOMBSTONE) {
            _Atomic(entry *) *slot;
            probe(new, e->index, &slot);
            atomic_store_explicit(slot, e, memory_order_relaxed);
        }
    }
    atomic_store(&t->current, new);
    t->taken = t->live;
    retire(t, &old->link);
    return true;
}

mh_index_table *mh_index_table_new(void) {
    mh_index_table *t = calloc(1, sizeof *t);
    slots *s = slots_new(FIRST_SLOTS);
    if (!t || !s) {
        free(t);
        free(s);
        return NULL;
    }
    atomic_init(&t->current, s);
    return t;
}

void mh_index_table_reclaim(mh_index_table *t) {
    while (t->garbage) {
        retired *r = t->garbage;
        t->garbage = r->next;
        free(r); /* the link is the first member of entry and of slots */
    }
}

void mh_index_table_free(mh_index_table *t) {
    if (!t)
        return;
    slots *s = atomic_load(&t->current);
    for (size_t i = 0; i <= s->mask; i++) {
        entry *e = atomic_load(&s->at[i]);
        if (e != TOMBSTONE)
            free(e);
    }
    free(s);
    mh_index_table_reclaim(t);
    free(t);
}

bool mh_index_table_add(mh_index_table *t, mh_session *s, void *owner) {
    uint32_t index = mh_session_local_index(s);
    slots *now = atomic_load(&t->current);
    _Atomic(entry *) *slot;
    if (probe(now, index, &slot))
        return false;
    entry *e = malloc(sizeof *e);
    if (!e)
        return false;
    *e = (entry){{NULL}, index, s, owner};
    if (2 * (t->taken + 1) > now->mask + 1) {
        if (!regrow(t)) {
            free(e);
            return false;
        }
        probe(atomic_load(&t->current), index, &slot);
    }
    atomic_store_explicit(slot, e, memory_order_release);
    t->live++;
    t->taken++;
    return true;
}

bool mh_index_table_remove(mh_index_table *t, const mh_session *s) {
    _Atomic(entry *) *slot;
    entry *e = probe(atomic_load(&t->current), mh_session_local_index(s), &slot);
    if (!e || e->session != s)
        return false;
    atomic_store(slot, TOMBSTONE); /* sequentially consistent, as the epoch read behind it */
    t->live--;
    retire(t, &e->link);
    return true;
}

mh_session *mh_index_table_find(const mh_index_table *t, uint32_t index, void **owner) {
    _Atomic(entry *) *slot;
    const entry *e = probe(atomic_load(&t->current), index, &slot);
    if (!e)
        return NULL;
    if (owner)
        *owner = e->owner;
    return e->session;
}
