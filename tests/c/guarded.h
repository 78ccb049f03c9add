/* Memory whose every byte too many is noticed: after it comes a page that cannot be touched, before
   it bytes that must stay as they are. */
#ifndef GUARDED_H
#define GUARDED_H

#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* mmap without a file */
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define GUARD_PAGE ((size_t)65536) /* of every kernel that there is */
#define GUARD_BYTE 0x5a

typedef struct guarded {
  unsigned char *map; /* where the bytes before it start */
  unsigned char *at;
} guarded;

/* Exactly `bytes` bytes, all `fill`, that end at the forbidden page; aligned to 64 if `bytes` is. */
static inline guarded guard(size_t bytes, int fill) {
  size_t room = (bytes / GUARD_PAGE + 2) * GUARD_PAGE;
  unsigned char *map = (unsigned char *)mmap(NULL, room, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  guarded memory;
  if (map == (unsigned char *)MAP_FAILED || mprotect(map + room - GUARD_PAGE, GUARD_PAGE, PROT_NONE)) {
    perror("guard");
    exit(1);
  }
  memory.map = map;
  memory.at = map + room - GUARD_PAGE - bytes;
  memset(map, GUARD_BYTE, (size_t)(memory.at - map));
  memset(memory.at, fill, bytes);
  return memory;
}

/* Ends the program if a byte before the memory has changed. */
static inline void guard_check(const char *what, guarded memory) {
  for (const unsigned char *p = memory.map; p < memory.at; p++) {
    if (*p == GUARD_BYTE) continue;
    fprintf(stderr, "%s: written %ld bytes before its start\n", what, (long)(memory.at - p));
    exit(1);
  }
}

#endif
