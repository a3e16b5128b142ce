/* One point of the Mandelbrot set, coloured smoothly.  Build: python -m examples.build */
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(#name))) name

/* A point this far away (squared) is gone for good; that it is so far makes the colours meet without a seam. */
static const double FAR = 65536.0;

/* The logarithm to base 2 of a normal number: its exponent, and its mantissa for the fraction.  At most 0.09 off. */
static double log2_of(double x) {
  union { double value; uint64_t bits; } number = {x};
  return (double)(number.bits >> 52) - 1023.0 + (double)(number.bits & 0xFFFFFFFFFFFFFull) / 0x1p52;
}

/* The steps that the point takes to escape, with a fraction; `limit` if it does not within so many. */
double EXPORT(escape)(double re, double im, int32_t limit) {
  double x = 0, y = 0;
  for (int32_t n = 0; n < limit; n++) {
    double xx = x * x, yy = y * y;
    if (xx + yy > FAR) return n + 1 - log2_of(log2_of(xx + yy) / log2_of(FAR));
    y = 2 * x * y + im;
    x = xx - yy + re;
  }
  return limit;
}
