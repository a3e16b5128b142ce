/* Sleeps for an hour, which burns no fuel.  Build: python -m examples.build */
#include "plugin.h"

__attribute__((import_module("wasi_snapshot_preview1"), import_name("poll_oneoff"))) int32_t poll_oneoff(
    const void *subscriptions, void *events, size_t count, size_t *happened);

/* WASI's subscription to a clock: its second member says which kind of event, 0 for a clock. */
static const struct {
  uint64_t userdata, kind;
  uint32_t clock;
  uint64_t nanoseconds, precision;
  uint16_t flags;
} AN_HOUR = {0, 0, 1, 3600000000000ull, 0, 0};

uint64_t EXPORT(transform)(char *in, size_t size) {
  uint64_t event[4];
  size_t happened;
  poll_oneoff(&AN_HOUR, event, 1, &happened);
  return reply(in, size);
}
