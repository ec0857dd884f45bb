/* test_session.c - limits, references and threads. Includes the source, to set the counter near its limit. */
#include "../../native/src/session.c"

#include "check.h"

#define SECOND UINT64_C(1000000000)

static const uint8_t chaining_key[32] = {42};

typedef struct {
    uint8_t bytes[MH_DATA_HEADER_LEN + 64 + MH_TAG_LEN];
} message;

static void pair(mh_session **a, mh_session **b) {
    *a = mh_session_new(chaining_key, true, 1, 2, 0);
    *b = mh_session_new(chaining_key, false, 2, 1, 0);
    CHECK(*a && *b);
}

static mh_aead_job body(message *m) { return (mh_aead_job){.data = m->bytes + MH_DATA_HEADER_LEN, .len = 64}; }

static void a_message_carries_its_header_and_opens_once(void) {
    mh_session *a, *b;
    pair(&a, &b);
    message m = {{0}}, copy;
    mh_aead_job job = body(&m);
    memset(job.data, 7, 64);
    CHECK(mh_session_seal(a, &job, 1, SECOND) == 1);
    uint32_t receiver;
    uint64_t counter;
    CHECK(mh_data_header_get(m.bytes, sizeof m.bytes, &receiver, &counter));
    CHECK(receiver == 2 && counter == 0 && mh_session_sent(a) == 1);
    copy = m;
    uint8_t reason;
    job = body(&m);
    CHECK(mh_session_open(b, &job, &reason, 1, SECOND) == 1 && reason == MH_REASON_NONE);
    for (size_t i = 0; i < 64; i++)
        CHECK(job.data[i] == 7);
    job = body(&copy);
    CHECK(mh_session_open(b, &job, &reason, 1, SECOND) == 0 && reason == MH_REASON_REPLAY && !job.ok);
    for (size_t i = 0; i < 64; i++)
        CHECK(job.data[i] == 0);
    mh_session_free(a);
    mh_session_free(b);
}

static void a_forgery_does_not_move_the_window(void) {
    mh_session *a, *b;
    pair(&a, &b);
    message m[2] = {{{0}}};
    mh_aead_job jobs[2] = {body(&m[0]), body(&m[1])};
    CHECK(mh_session_seal(a, jobs, 2, SECOND) == 2);
    uint8_t reasons[2];
    jobs[1].counter = UINT64_C(1) << 50;
    CHECK(mh_session_open(b, jobs, reasons, 2, SECOND) == 1);
    CHECK(reasons[0] == MH_REASON_NONE && reasons[1] == MH_REASON_AUTH);
    CHECK(b->window.greatest == 0);
    mh_session_free(a);
    mh_session_free(b);
}

static void a_session_ends_at_180_seconds_to_the_nanosecond(void) {
    mh_session *a, *b;
    pair(&a, &b);
    message m = {{0}};
    mh_aead_job job = body(&m);
    uint8_t reason;
    CHECK(mh_session_alive(a, 180 * SECOND - 1) && !mh_session_alive(a, 180 * SECOND));
    CHECK(mh_session_seal(a, &job, 1, 180 * SECOND) == 0 && !job.ok && mh_session_sent(a) == 0);
    CHECK(mh_session_seal(a, &job, 1, 180 * SECOND - 1) == 1);
    CHECK(mh_session_open(b, &job, &reason, 1, 180 * SECOND) == 0 && reason == MH_REASON_SESSION_EXPIRED);
    CHECK(mh_session_open(b, &job, &reason, 1, 180 * SECOND - 1) == 1);
    mh_session_free(a);
    mh_session_free(b);
}

static void no_counter_at_or_beyond_the_message_limit_is_sealed(void) {
    mh_session *a, *b;
    pair(&a, &b);
    message m[3] = {{{0}}};
    mh_aead_job jobs[3] = {body(&m[0]), body(&m[1]), body(&m[2])};
    a->sent = MH_REJECT_AFTER_MESSAGES - 2;
    CHECK(mh_session_seal(a, jobs, 3, SECOND) == 0);
    CHECK(mh_session_sent(a) == MH_REJECT_AFTER_MESSAGES - 2);
    CHECK(mh_session_seal(a, jobs, 2, SECOND) == 2);
    CHECK(!mh_session_alive(a, SECOND));
    CHECK(mh_session_seal(a, &jobs[2], 1, SECOND) == 0);
    mh_session_free(a);
    mh_session_free(b);
}

static void an_authentic_counter_beyond_the_limit_is_refused(void) {
    mh_session *a, *b;
    pair(&a, &b);
    for (uint64_t counter = MH_REJECT_AFTER_MESSAGES - 1; counter != MH_REJECT_AFTER_MESSAGES + 2; counter++) {
        message m = {{0}};
        mh_aead_job job = body(&m);
        uint8_t reason;
        job.counter = counter;
        CHECK(mh_aead_seal(a->send_key, &job, 1) == 1);
        CHECK(mh_session_open(b, &job, &reason, 1, SECOND) == (counter < MH_REJECT_AFTER_MESSAGES));
        CHECK(reason == (counter < MH_REJECT_AFTER_MESSAGES ? MH_REASON_NONE : MH_REASON_SESSION_EXPIRED));
    }
    mh_session_free(a);
    mh_session_free(b);
}

static void the_last_holder_frees(void) {
    mh_session *a, *b;
    pair(&a, &b);
    CHECK(mh_session_ref(a) == a);
    mh_session_free(a);
    CHECK(mh_session_alive(a, SECOND)); /* the sanitizer says no if it was freed, and leak detection if it never is */
    mh_session_free(a);
    mh_session_free(b);
    mh_session_free(NULL);
}

#define THREADS 4
#define BURSTS 200
#define BURST 8

typedef struct {
    mh_session *from, *to;
    uint8_t *spent; /* one byte a counter */
} traffic;

/* Each thread seals bursts, notes their counters, and opens them at the other end, with its own reference. */
static void *send_and_receive(void *arg) {
    traffic *t = arg;
    for (int i = 0; i < BURSTS; i++) {
        message m[BURST] = {{{0}}};
        mh_aead_job jobs[BURST];
        uint8_t reasons[BURST];
        for (size_t j = 0; j < BURST; j++)
            jobs[j] = body(&m[j]);
        CHECK(mh_session_seal(t->from, jobs, BURST, SECOND) == BURST);
        for (size_t j = 0; j < BURST; j++)
            t->spent[jobs[j].counter]++;
        CHECK(mh_session_sent(t->from) > jobs[BURST - 1].counter);
        CHECK(mh_session_open(t->to, jobs, reasons, BURST, SECOND) == BURST);
    }
    mh_session_free(t->from);
    mh_session_free(t->to);
    return NULL;
}

static void threads_share_a_session_and_never_a_counter(void) {
    static uint8_t spent[THREADS * BURSTS * BURST];
    mh_session *a, *b;
    pair(&a, &b);
    pthread_t threads[THREADS];
    traffic t = {a, b, spent};
    for (size_t i = 0; i < THREADS; i++) {
        mh_session_ref(a);
        mh_session_ref(b);
        CHECK(pthread_create(&threads[i], NULL, send_and_receive, &t) == 0);
    }
    mh_session_free(a);
    mh_session_free(b);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < sizeof spent; i++)
        CHECK(spent[i] == 1);
}

#define LEFT 1000 /* counters below the limit: 125 bursts, which four threads cannot share evenly */

/* Seals until the session refuses, and notes which counters it was given. */
static void *seal_to_the_end(void *arg) {
    traffic *t = arg;
    for (;;) {
        message m[BURST] = {{{0}}};
        mh_aead_job jobs[BURST];
        for (size_t j = 0; j < BURST; j++)
            jobs[j] = body(&m[j]);
        if (mh_session_seal(t->from, jobs, BURST, SECOND) == 0)
            return NULL;
        for (size_t j = 0; j < BURST; j++) {
            CHECK(jobs[j].counter < MH_REJECT_AFTER_MESSAGES);
            t->spent[jobs[j].counter - (MH_REJECT_AFTER_MESSAGES - LEFT)]++;
        }
    }
}

static void threads_that_race_to_the_message_limit_stop_before_it(void) {
    static uint8_t spent[LEFT];
    mh_session *a, *b;
    pair(&a, &b);
    a->sent = MH_REJECT_AFTER_MESSAGES - LEFT;
    pthread_t threads[THREADS];
    traffic t = {a, b, spent};
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, seal_to_the_end, &t) == 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < LEFT; i++)
        CHECK(spent[i] == 1);
    CHECK(mh_session_sent(a) == MH_REJECT_AFTER_MESSAGES);
    mh_session_free(a);
    mh_session_free(b);
}

int main(void) {
    RUN(a_message_carries_its_header_and_opens_once);
    RUN(a_forgery_does_not_move_the_window);
    RUN(a_session_ends_at_180_seconds_to_the_nanosecond);
    RUN(no_counter_at_or_beyond_the_message_limit_is_sealed);
    RUN(an_authentic_counter_beyond_the_limit_is_refused);
    RUN(the_last_holder_frees);
    RUN(threads_share_a_session_and_never_a_counter);
    RUN(threads_that_race_to_the_message_limit_stop_before_it);
    return 0;
}
