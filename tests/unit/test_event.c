/* SPDX-License-Identifier: BSD-2-Clause */
/* Events: which are well-formed, and what two exceptions make of each other. */
#include "fake.h"

#include <string.h>

/* Intel SDM "Interrupt 8—Double Fault Exception (#DF)", table of interrupt and exception classes,
 * by vector: '-' benign, 'c' contributory, 'p' page fault, 'd' double fault. */
static const char classes[33] = "c-------d-ccccp"
                                "-----"
                                "pc----------";

static char class_of(unsigned vector)
{
    return classes[vector];
}

/* The table "Conditions for Generating a Double Fault" of the same section. */
static enum virtx_merge by_the_table(char first, char second)
{
    if (first == 'd') /* "if another contributory or page fault exception occurs": shutdown */
        return second == '-' ? VIRTX_MERGE_SECOND : VIRTX_MERGE_TRIPLE_FAULT;
    if (first == 'c')
        return second == 'c' ? VIRTX_MERGE_DOUBLE_FAULT : VIRTX_MERGE_SECOND;
    if (first == 'p')
        return second == 'c' || second == 'p' ? VIRTX_MERGE_DOUBLE_FAULT : VIRTX_MERGE_SECOND;
    return VIRTX_MERGE_SECOND;
}

START_TEST(merge_all_pairs)
{
    static const uint8_t contributory[] = {0, 10, 11, 12, 13, 21};

    for (unsigned first = 0; first < 32; first++)
        for (unsigned second = 0; second < 32; second++)
            ck_assert_msg(virtx_event_merge((uint8_t)first, (uint8_t)second) ==
                              by_the_table(class_of(first), class_of(second)),
                          "%u then %u", first, second);
    /* The classes above, once more by hand. */
    for (unsigned i = 0; i < sizeof(contributory); i++) {
        ck_assert_int_eq(class_of(contributory[i]), 'c');
        ck_assert_int_eq(virtx_event_merge(contributory[i], 14), VIRTX_MERGE_SECOND);
        ck_assert_int_eq(virtx_event_merge(14, contributory[i]), VIRTX_MERGE_DOUBLE_FAULT);
        ck_assert_int_eq(virtx_event_merge(contributory[i], 13), VIRTX_MERGE_DOUBLE_FAULT);
        ck_assert_int_eq(virtx_event_merge(8, contributory[i]), VIRTX_MERGE_TRIPLE_FAULT);
        ck_assert_int_eq(virtx_event_merge(contributory[i], 6), VIRTX_MERGE_SECOND);
    }
    ck_assert_int_eq(virtx_event_merge(14, 14), VIRTX_MERGE_DOUBLE_FAULT);
    ck_assert_int_eq(virtx_event_merge(14, 20), VIRTX_MERGE_DOUBLE_FAULT);
    ck_assert_int_eq(virtx_event_merge(8, 14), VIRTX_MERGE_TRIPLE_FAULT);
    ck_assert_int_eq(virtx_event_merge(8, 1), VIRTX_MERGE_SECOND);
    ck_assert_int_eq(virtx_event_merge(17, 17), VIRTX_MERGE_SECOND);
    /* Vectors beyond the exceptions are interrupts: benign. */
    for (unsigned v = 32; v < 256; v++) {
        ck_assert_int_eq(virtx_event_merge((uint8_t)v, 13), VIRTX_MERGE_SECOND);
        ck_assert_int_eq(virtx_event_merge(13, (uint8_t)v), VIRTX_MERGE_SECOND);
    }
}
END_TEST

static struct virtx_event exception(uint8_t vector, uint32_t error)
{
    return (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION,
                                .vector = vector,
                                .has_error = virtx_event_pushes_error(vector),
                                .error = error};
}

START_TEST(queued)
{
    struct event_queue queue;
    struct virtx_event gp = exception(13, 0x50), pf = exception(14, 2), db = exception(1, 0), soft;

    memset(&queue, 0, sizeof(queue));
    ck_assert(virtx_event_exception(&queue, &pf));
    ck_assert_uint_eq(queue.exception.vector, 14);
    ck_assert(virtx_event_exception(&queue, &db)); /* handled one after the other */
    ck_assert_uint_eq(queue.exception.vector, 1);
    ck_assert(virtx_event_exception(&queue, &gp));
    ck_assert_uint_eq(queue.exception.vector, 13);
    ck_assert_uint_eq(queue.exception.error, 0x50);
    ck_assert(virtx_event_exception(&queue, &pf));
    ck_assert_uint_eq(queue.exception.vector, 14);
    ck_assert(virtx_event_exception(&queue, &gp));
    ck_assert_uint_eq(queue.exception.vector, 8); /* with the error code that it always has */
    ck_assert(queue.exception.has_error);
    ck_assert_uint_eq(queue.exception.error, 0);
    ck_assert_uint_eq(queue.exception.type, VIRTX_EVENT_EXCEPTION);
    ck_assert(!virtx_event_exception(&queue, &pf));
    ck_assert(!queue.has_exception);

    /* INT 13 is no contributory exception. */
    soft = (struct virtx_event){.type = VIRTX_EVENT_SOFT_INTERRUPT, .vector = 13, .length = 2};
    ck_assert(virtx_event_exception(&queue, &soft));
    ck_assert(virtx_event_exception(&queue, &gp));
    ck_assert_uint_eq(queue.exception.vector, 13);
    ck_assert_uint_eq(queue.exception.type, VIRTX_EVENT_EXCEPTION);
    ck_assert(virtx_event_exception(&queue, &soft));
    ck_assert_uint_eq(queue.exception.type, VIRTX_EVENT_SOFT_INTERRUPT);
}
END_TEST

static bool good(uint8_t type, uint8_t vector, bool has_error, uint8_t length, uint32_t error)
{
    struct virtx_event event = {
        .type = type, .vector = vector, .has_error = has_error, .length = length, .error = error};
    enum virtx_status status = virtx_event_check(&event);

    ck_assert(status == VIRTX_OK || status == VIRTX_E_INVALID);
    return status == VIRTX_OK;
}

START_TEST(well_formed)
{
    static const uint8_t with_error[] = {8, 10, 11, 12, 13, 14, 17, 21, 29, 30};
    static const uint8_t none[] = {2, 9, 15, 22, 23, 24, 25, 26, 27, 31};

    for (unsigned v = 0; v < 256; v++) {
        bool pushes = memchr(with_error, (int)v, sizeof(with_error)) != NULL;
        bool exists = v < 32 && !memchr(none, (int)v, sizeof(none));

        ck_assert(good(VIRTX_EVENT_INTERRUPT, (uint8_t)v, false, 0, 0));
        ck_assert(!good(VIRTX_EVENT_INTERRUPT, (uint8_t)v, true, 0, 0));
        ck_assert(!good(VIRTX_EVENT_INTERRUPT, (uint8_t)v, false, 1, 0));
        ck_assert(good(VIRTX_EVENT_NMI, (uint8_t)v, false, 0, 0) == (v == 2));
        ck_assert(good(VIRTX_EVENT_EXCEPTION, (uint8_t)v, false, 0, 0) == exists);
        ck_assert(good(VIRTX_EVENT_EXCEPTION, (uint8_t)v, true, 0, 0xffff) == (exists && pushes));
        ck_assert(!good(VIRTX_EVENT_EXCEPTION, (uint8_t)v, true, 0, 0x10000));
        ck_assert(!good(VIRTX_EVENT_EXCEPTION, (uint8_t)v, false, 1, 0));
        ck_assert(virtx_event_pushes_error((uint8_t)v) == pushes);
        ck_assert(good(VIRTX_EVENT_SOFT_INTERRUPT, (uint8_t)v, false, 2, 0));
        ck_assert(!good(VIRTX_EVENT_SOFT_INTERRUPT, (uint8_t)v, false, 0, 0));
        ck_assert(!good(VIRTX_EVENT_SOFT_INTERRUPT, (uint8_t)v, false, 16, 0));
        ck_assert(!good(VIRTX_EVENT_SOFT_INTERRUPT, (uint8_t)v, true, 2, 0));
        ck_assert(good(VIRTX_EVENT_PRIV_EXCEPTION, (uint8_t)v, false, 1, 0) == (v == 1));
        ck_assert(good(VIRTX_EVENT_SOFT_EXCEPTION, (uint8_t)v, false, 1, 0) == (v == 3 || v == 4));
    }
    ck_assert(!good(1, 0, false, 0, 0));
    ck_assert(!good(7, 0, false, 0, 0));
    ck_assert(!good(255, 0, false, 0, 0));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("event");
    TCase *tests = fake_case(suite, "event");

    tcase_add_test(tests, merge_all_pairs);
    tcase_add_test(tests, queued);
    tcase_add_test(tests, well_formed);
    return fake_main(suite);
}
