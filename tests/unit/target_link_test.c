/* needs: target_postgres */
/* When a target's host is taken for dead, from what TCP knows of the link. */
#include "applier/targets/postgres/target_postgres.h"
#include "sidespool/link.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define S 1000
#define LOOKS_S 120

/* Looks each second as the watch does; returns the second at which the link is given up, or 0. */
static int64_t given_up(struct tcp_info (*at)(int64_t ms)) {
    const int64_t began = 5000000;
    int64_t since = 0;
    for (int64_t ms = 0; ms <= LOOKS_S * S; ms += S) {
        struct tcp_info info = at(ms);
        if (ss_tgt_link_silent(&info, began + ms, &since))
            return ms / S;
    }
    return 0;
}

static struct tcp_info idle(int64_t ms) {
    return (struct tcp_info){.tcpi_last_ack_recv = (uint32_t)(3600 * S + ms), .tcpi_last_data_recv = (uint32_t)(3600 * S + ms)};
}

static struct tcp_info unacknowledged_from_10(int64_t ms) {
    struct tcp_info info = idle(ms);
    if (ms >= 10 * S) {
        info.tcpi_unacked = 3;
        info.tcpi_retransmits = ms >= 11 * S ? 3 : 0;
    }
    return info;
}

/* The far side reads nothing, and answers each probe of its window, ever more rarely. */
static struct tcp_info shut_window(int64_t ms) {
    return (struct tcp_info){.tcpi_probes = 1, .tcpi_last_ack_recv = (uint32_t)(ms % (50 * S)), .tcpi_last_data_recv = (uint32_t)ms};
}

static struct tcp_info shut_window_then_dead(int64_t ms) {
    struct tcp_info info = shut_window(ms);
    info.tcpi_probes = ms > 30 * S ? 4 : 1;
    info.tcpi_last_ack_recv = ms > 30 * S ? (uint32_t)(ms - 30 * S) : 0;
    return info;
}

/* Packets are lost, and each second some come through. */
static struct tcp_info lossy(int64_t ms) {
    return (struct tcp_info){.tcpi_unacked = 9, .tcpi_retransmits = 2, .tcpi_last_ack_recv = (uint32_t)(ms % (7 * S)),
                             .tcpi_last_data_recv = (uint32_t)ms};
}

static struct tcp_info lossy_but_answering(int64_t ms) {
    struct tcp_info info = lossy(ms);
    info.tcpi_last_data_recv = (uint32_t)(ms % (9 * S));
    info.tcpi_last_ack_recv = (uint32_t)ms;
    return info;
}

static void a_dead_link_is_given_up_after_its_time(void **state) {
    (void)state;
    assert_int_equal(given_up(unacknowledged_from_10), 10 - 1 + SS_LINK_DEAD_MS / S);
    assert_int_equal(given_up(shut_window_then_dead), 30 + SS_LINK_DEAD_MS / S);
}

static void a_link_that_answers_is_kept(void **state) {
    (void)state;
    assert_int_equal(given_up(idle), 0); /* keepalives look after it */
    assert_int_equal(given_up(shut_window), 0);
    assert_int_equal(given_up(lossy), 0);
    assert_int_equal(given_up(lossy_but_answering), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dead_link_is_given_up_after_its_time),
        cmocka_unit_test(a_link_that_answers_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
