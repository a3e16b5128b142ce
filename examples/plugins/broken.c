/* Divides by the number of letters z in the text, though there may be none.  Build: python -m examples.build */
#include "plugin.h"

uint64_t EXPORT(transform)(char *in, size_t size) {
  volatile size_t letters = 0;
  for (size_t i = 0; i < size; i++) letters += in[i] == 'z';
  return reply(in, size / letters);
}
