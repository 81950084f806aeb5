/* SPDX-License-Identifier: BSD-2-Clause */
/* Events: which are well-formed, and what becomes of two exceptions at once. */
#include "core/object.h"

/* Vectors 0 to 31 that are exceptions of some processor: not the NMI, and not the reserved ones
 * (Intel SDM "Exceptions and Interrupts"; AMD APM "Exceptions and Interrupts"). */
#define EXCEPTIONS                                                                                 \
    (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(10) | BIT(11) |   \
     BIT(12) | BIT(13) | BIT(14) | BIT(16) | BIT(17) | BIT(18) | BIT(19) | BIT(20) | BIT(21) |     \
     BIT(28) | BIT(29) | BIT(30))

/* Those that push an error code: DF, TS, NP, SS, GP, PF, AC, CP; AMD's VC and SX. */
#define WITH_ERROR                                                                                 \
    (BIT(8) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(17) | BIT(21) | BIT(29) |      \
     BIT(30))

/* Intel SDM "Interrupt 8—Double Fault Exception (#DF)": interrupt and exception classes. */
#define CONTRIBUTORY (BIT(0) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(21))
#define PAGE_FAULTS  (BIT(14) | BIT(20))
#define DOUBLE_FAULT 8

bool virtx_event_pushes_error(uint8_t vector)
{
    return vector < 32 && (WITH_ERROR >> vector & 1);
}

/*
 * Intel SDM "VM-Entry Event Injection" and the checks of "VM-Entry Control Fields"; AMD APM
 * "Event Injection". Whether an error code must be there depends on the mode too: the caller's
 * question.
 */
enum virtx_status virtx_event_check(const struct virtx_event *event)
{
    bool software = false, good;

    switch (event->type) {
    case VIRTX_EVENT_INTERRUPT:
        good = true;
        break;
    case VIRTX_EVENT_NMI:
        good = event->vector == 2;
        break;
    case VIRTX_EVENT_EXCEPTION:
        good = event->vector < 32 && (EXCEPTIONS >> event->vector & 1);
        break;
    case VIRTX_EVENT_SOFT_INTERRUPT:
        good = software = true;
        break;
    case VIRTX_EVENT_PRIV_EXCEPTION:
        good = event->vector == 1;
        software = true;
        break;
    case VIRTX_EVENT_SOFT_EXCEPTION:
        good = event->vector == 3 || event->vector == 4;
        software = true;
        break;
    default:
        good = false;
        break;
    }
    if (event->has_error)
        good = good && event->type == VIRTX_EVENT_EXCEPTION &&
               virtx_event_pushes_error(event->vector) && event->error <= 0xffff;
    good = good && (software ? event->length >= 1 && event->length <= 15 : event->length == 0);
    return good ? VIRTX_OK : VIRTX_E_INVALID;
}

enum virtx_merge virtx_event_merge(uint8_t first, uint8_t second)
{
    bool contributory = second < 32 && (CONTRIBUTORY >> second & 1);
    bool page_fault = second < 32 && (PAGE_FAULTS >> second & 1);

    if (first == DOUBLE_FAULT)
        return contributory || page_fault || second == DOUBLE_FAULT ? VIRTX_MERGE_TRIPLE_FAULT
                                                                    : VIRTX_MERGE_SECOND;
    if (first < 32 && (CONTRIBUTORY >> first & 1))
        return contributory ? VIRTX_MERGE_DOUBLE_FAULT : VIRTX_MERGE_SECOND;
    if (first < 32 && (PAGE_FAULTS >> first & 1))
        return contributory || page_fault ? VIRTX_MERGE_DOUBLE_FAULT : VIRTX_MERGE_SECOND;
    return VIRTX_MERGE_SECOND;
}

void virtx_event_nmi(struct event_queue *queue, uint32_t interruptibility)
{
    /* Intel SDM, "Handling Multiple NMIs". The one that is not being handled yet counts as well. */
    uint8_t most = interruptibility & VIRTX_BLOCKED_BY_NMI ? 1 : 2;

    if (queue->nmis < most)
        queue->nmis++;
}

/* INT n, INT3, INTO and INT1 are benign whatever their vector. */
static uint8_t class_vector(const struct virtx_event *event)
{
    return event->type == VIRTX_EVENT_EXCEPTION ? event->vector : 1;
}

bool virtx_event_exception(struct event_queue *queue, const struct virtx_event *event)
{
    enum virtx_merge merge = VIRTX_MERGE_SECOND;

    if (queue->has_exception)
        merge = virtx_event_merge(class_vector(&queue->exception), class_vector(event));
    if (merge == VIRTX_MERGE_TRIPLE_FAULT) {
        queue->has_exception = false;
        return false;
    }
    queue->exception = *event;
    if (merge == VIRTX_MERGE_DOUBLE_FAULT)
        queue->exception = (struct virtx_event){
            .type = VIRTX_EVENT_EXCEPTION,
            .vector = DOUBLE_FAULT,
            .has_error = true,
        };
    queue->has_exception = true;
    return true;
}
