/* ---- timers ---------------------------------------------------------------
 *
 * NETKIT_E_STALE, _THREAD, _INVALID and _CLOSED of these calls: see the head of
 * "loop". */

typedef void (*netkit_timer_fn)(netkit_loop *loop, netkit_timer timer, void *user);

/* Call fn after delay_us, then every period_us (0: once). Never early; in order
 * of due time, then of start. A repeating timer keeps its phase: when the loop
 * comes late it fires once and skips what it missed. The handle of a one-shot
 * timer dies when its callback returns, unless that has restarted it. `out` may
 * be NULL; fn, too, with desc.pull. Delays over 2^62 ns are taken as that.
 * Returns NETKIT_OK, NETKIT_E_FULL, NETKIT_E_NOMEM. Thread: the loop's. */
NETKIT_API int netkit_timer_start(netkit_loop *loop, netkit_timer *out, uint64_t delay_us,
                                  uint64_t period_us, netkit_timer_fn fn, void *user);

/* Set the next firing to delay_us from now; a period counts from there.
 * Allocates nothing and cannot fail on a live timer. Thread: the loop's. */
NETKIT_API int netkit_timer_restart(netkit_loop *loop, netkit_timer timer, uint64_t delay_us);

/* End a timer at once, in its own callback too. Thread: the loop's. */
NETKIT_API int netkit_timer_stop(netkit_loop *loop, netkit_timer timer);

/* Microseconds until it fires next, rounded up, to *out_us; 0 in the callback of a
 * one-shot. Thread: the loop's. */
NETKIT_API int netkit_timer_remaining(netkit_loop *loop, netkit_timer timer, uint64_t *out_us);

/* Whether the timer keeps netkit_loop_run going (at first it does).
 * Thread: the loop's. */
NETKIT_API int netkit_timer_set_referenced(netkit_loop *loop, netkit_timer timer, bool referenced);
