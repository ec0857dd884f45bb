/*
 * test_index_table.c - the table against a plain array, then readers on other threads while the writer adds, removes
 * and reclaims (the claim is above all ThreadSanitizer's and AddressSanitizer's).
 *
 * Quiescence is what the real control plane uses: each reader counts its rounds, the writer waits until all moved on.
 */
#include "check.h"
#include "index_table.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

static const uint8_t chaining_key[32] = {9};

static mh_session *session(uint32_t index) {
    mh_session *s = mh_session_new(chaining_key, true, index, 0, 0);
    CHECK(s);
    return s;
}

static void it_finds_what_was_added_until_it_is_removed(void) {
    enum { N = 300 };
    static mh_session *live[N];
    int owners[N];
    uint64_t seed = 5;
    mh_index_table *t = mh_index_table_new();
    CHECK(t);
    for (int i = 0; i < 20000; i++) {
        uint32_t at = random_below(&seed, N);
        uint32_t index = at * 0x01000000u + at; /* alike in many bits */
        void *owner = NULL;
        CHECK(mh_index_table_find(t, index, &owner) == live[at]);
        CHECK(!live[at] || owner == &owners[at]);
        if (live[at]) {
            CHECK(!mh_index_table_add(t, live[at], NULL));
            CHECK(mh_index_table_remove(t, live[at]) && !mh_index_table_remove(t, live[at]));
            mh_session_free(live[at]);
            live[at] = NULL;
        } else {
            live[at] = session(index);
            CHECK(mh_index_table_add(t, live[at], &owners[at]));
        }
        if (i % 100 == 0)
            mh_index_table_reclaim(t);
    }
    mh_index_table_free(t);
    for (int i = 0; i < N; i++)
        mh_session_free(live[i]);
}

static void a_session_cannot_remove_another_with_its_index(void) {
    mh_index_table *t = mh_index_table_new();
    mh_session *a = session(7), *b = session(7);
    CHECK(t && mh_index_table_add(t, a, NULL));
    CHECK(!mh_index_table_add(t, b, NULL) && !mh_index_table_remove(t, b));
    CHECK(mh_index_table_find(t, 7, NULL) == a);
    mh_index_table_free(t);
    mh_session_free(a);
    mh_session_free(b);
    mh_index_table_free(NULL);
}

#define READERS 3
#define INDICES 64
#define ROUNDS 400

typedef struct {
    mh_index_table *table;
    atomic_bool stop;
    atomic_ulong rounds[READERS];
} shared_state;

typedef struct {
    shared_state *state;
    size_t number;
} reader;

static void *read_all_the_time(void *arg) {
    const reader *me = arg;
    shared_state *state = me->state;
    unsigned long found = 0;
    while (!atomic_load(&state->stop)) {
        for (uint32_t index = 0; index < INDICES; index++) {
            void *owner = NULL;
            mh_session *s = mh_index_table_find(state->table, index, &owner);
            if (s) {
                CHECK(mh_session_local_index(s) == index && owner == state);
                found++;
            }
        }
        CHECK(mh_index_table_find(state->table, 0, NULL)); /* index 0 stays */
        atomic_fetch_add(&state->rounds[me->number], 1);
    }
    return (void *)found;
}

static void wait_until_quiescent(shared_state *state) {
    for (size_t i = 0; i < READERS; i++) {
        unsigned long before = atomic_load(&state->rounds[i]);
        while (atomic_load(&state->rounds[i]) < before + 1)
            sched_yield();
    }
}

static void readers_never_meet_a_wrong_or_freed_session(void) {
    static shared_state state;
    mh_session *live[INDICES] = {0};
    pthread_t threads[READERS];
    reader readers[READERS];
    uint64_t seed = 11;
    state.table = mh_index_table_new();
    CHECK(state.table);
    live[0] = session(0);
    CHECK(mh_index_table_add(state.table, live[0], &state));
    for (size_t i = 0; i < READERS; i++) {
        readers[i] = (reader){&state, i};
        CHECK(pthread_create(&threads[i], NULL, read_all_the_time, &readers[i]) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        mh_session *removed[4];
        size_t n = 0;
        for (int i = 0; i < 12; i++) {
            uint32_t index = 1 + random_below(&seed, INDICES - 1);
            if (!live[index]) {
                live[index] = session(index);
                CHECK(mh_index_table_add(state.table, live[index], &state));
            } else if (n < 4) {
                CHECK(mh_index_table_remove(state.table, live[index]));
                removed[n++] = live[index];
                live[index] = NULL;
            }
        }
        wait_until_quiescent(&state);
        mh_index_table_reclaim(state.table);
        while (n)
            mh_session_free(removed[--n]);
    }
    atomic_store(&state.stop, true);
    for (size_t i = 0; i < READERS; i++) {
        void *found;
        pthread_join(threads[i], &found);
        CHECK(found);
    }
    mh_index_table_free(state.table);
    for (size_t i = 0; i < INDICES; i++)
        mh_session_free(live[i]);
}

int main(void) {
    RUN(it_finds_what_was_added_until_it_is_removed);
    RUN(a_session_cannot_remove_another_with_its_index);
    RUN(readers_never_meet_a_wrong_or_freed_session);
    return 0;
}
