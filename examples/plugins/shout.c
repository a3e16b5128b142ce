/* A good plug-in: capital letters.  Build: python -m examples.build */
#include "plugin.h"

uint64_t EXPORT(transform)(char *in, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (in[i] >= 'a' && in[i] <= 'z') in[i] -= 'a' - 'A';
  return reply(in, size);
}
