/* Takes ever more memory, and never looks whether it got any.  Build: python -m examples.build */
#include "plugin.h"

uint64_t EXPORT(transform)(char *in, size_t size) {
  for (;;) {
    uintptr_t end = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
    __builtin_wasm_memory_grow(0, 16);
    *(volatile char *)end = 1;
  }
  return reply(in, size);
}
