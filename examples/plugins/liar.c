/* Says that its answer lies outside its memory, where it would like the host to read.  Build: python -m examples.build */
#include "plugin.h"

uint64_t EXPORT(transform)(char *in, size_t size) { return reply(in + 0x7F000000, size); }
