/* What the web service computes.  Build: python -m examples.build */
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(#name))) name

static int is_prime(int32_t n) {
  if (n < 2) return 0;
  for (int32_t d = 2; d <= n / d; d++)
    if (n % d == 0) return 0;
  return 1;
}

/* How many primes there are in [first, last). */
int32_t EXPORT(count_primes)(int32_t first, int32_t last) {
  int32_t count = 0;
  for (int32_t n = first; n < last; n++) count += is_prime(n);
  return count;
}
