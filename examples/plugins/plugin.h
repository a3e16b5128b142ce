/* What a plug-in is: it exports `alloc`, for room where a text is put, and `transform`, which makes another of it. */
#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(#name))) name

static char text[1 << 16];

void *EXPORT(alloc)(size_t size) { return size <= sizeof text ? text : 0; }

/* Address and length of a text as one number, which is how `transform` returns it. */
static inline uint64_t reply(const char *start, size_t size) { return (uint64_t)(uintptr_t)start << 32 | size; }
