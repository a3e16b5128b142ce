/* A filter that makes a photograph look painted (Kuwahara's).  Build: python -m examples.build */
#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(#name))) name

extern unsigned char __heap_base;

/* The address of room for `size` bytes, always the same; 0 if there is not that much memory to be had. */
void *EXPORT(room)(size_t size) {
  uintptr_t start = ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15, end = start + size;
  uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
  if (end < start) return 0;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + 65535) >> 16) == (size_t)-1) return 0;
  return (void *)start;
}

typedef struct { uint32_t mean[3]; uint64_t variance; } Summary;

/* Of a rectangle of pixels that is clipped to the picture: its mean colour, and how much its brightness varies. */
static Summary summary(const uint8_t *in, int32_t width, int32_t height, int32_t left, int32_t top, int32_t side) {
  int32_t right = left + side < width ? left + side : width - 1;
  int32_t bottom = top + side < height ? top + side : height - 1;
  left = left < 0 ? 0 : left;
  top = top < 0 ? 0 : top;
  uint64_t sum[3] = {0, 0, 0}, bright = 0, squares = 0, count = (uint64_t)(right - left + 1) * (uint64_t)(bottom - top + 1);
  for (int32_t y = top; y <= bottom; y++)
    for (int32_t x = left; x <= right; x++) {
      const uint8_t *pixel = in + 3 * ((size_t)y * (size_t)width + (size_t)x);
      uint64_t brightness = (uint64_t)pixel[0] + pixel[1] + pixel[2];
      for (int c = 0; c < 3; c++) sum[c] += pixel[c];
      bright += brightness;
      squares += brightness * brightness;
    }
  Summary found = {{0, 0, 0}, squares / count - (bright / count) * (bright / count)};
  for (int c = 0; c < 3; c++) found.mean[c] = (uint32_t)(sum[c] / count);
  return found;
}

/* Each pixel becomes the mean of that of its four neighbouring squares which varies least, so edges stay sharp.
   `in` and `out` are RGB, 3 bytes a pixel, row by row. */
void EXPORT(paint)(const uint8_t *in, uint8_t *out, int32_t width, int32_t height, int32_t radius) {
  for (int32_t y = 0; y < height; y++)
    for (int32_t x = 0; x < width; x++) {
      Summary calmest = summary(in, width, height, x - radius, y - radius, radius);
      for (int corner = 1; corner < 4; corner++) {
        Summary other = summary(in, width, height, corner & 1 ? x : x - radius, corner & 2 ? y : y - radius, radius);
        if (other.variance < calmest.variance) calmest = other;
      }
      for (int c = 0; c < 3; c++) *out++ = (uint8_t)calmest.mean[c];
    }
}
