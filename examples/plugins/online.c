/* Wants a function of the host that it is not given.  Build: python -m examples.build */
#include "plugin.h"

__attribute__((import_module("env"), import_name("connect"))) int32_t connect_to(const char *host, size_t size);

uint64_t EXPORT(transform)(char *in, size_t size) { return reply(in, connect_to(in, size) ? 0 : size); }
