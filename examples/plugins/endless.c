/* Never returns, and burns fuel as fast as it can.  Build: python -m examples.build */
#include "plugin.h"

uint64_t EXPORT(transform)(char *in, size_t size) {
  for (volatile int i = 0;; i++) {
  }
  return reply(in, size);
}
