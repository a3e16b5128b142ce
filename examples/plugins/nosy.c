/* Tries to open files through every directory it might have been given.  Build: python -m examples.build */
#include "plugin.h"

__attribute__((import_module("wasi_snapshot_preview1"), import_name("path_open"))) int32_t path_open(
    int32_t directory, int32_t lookup, const char *path, size_t size, int32_t how, int64_t rights, int64_t inheriting,
    int32_t flags, int32_t *opened);

static const char FOUND[] = "I can read your files", NOTHING[] = "no files to be seen";

uint64_t EXPORT(transform)(char *in, size_t size) {
  int32_t opened;
  (void)in, (void)size;
  for (int32_t directory = 3; directory < 64; directory++)
    if (!path_open(directory, 0, ".", 1, 0, 2, 0, 0, &opened)) return reply(FOUND, sizeof FOUND - 1);
  return reply(NOTHING, sizeof NOTHING - 1);
}
