/* Calls emitted functions on a machine that the test itself does not run on.
   usage: call CASES  CASES holds, little-endian: per case the bytes of its memory, the number of its
   calls, the memory, and per call the function and its arguments, each an integer or an offset into
   the memory. What the memory holds after the calls goes to standard output. FUNCTIONS, a table of
   addresses, is written by the test. */
#include "functions.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define ARGUMENTS 12

/* Arguments that a function does not have are passed all the same: the caller cleans up. */
typedef void function(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                      int64_t, int64_t, int64_t);

static function *const functions[] = {FUNCTIONS};

static void read(FILE *from, void *to, size_t bytes) {
  if (fread(to, 1, bytes, from) == bytes) return;
  fprintf(stderr, "the cases end too early\n");
  exit(1);
}

static uint64_t number(FILE *from) {
  uint64_t x;
  read(from, &x, sizeof x);
  return x;
}

int main(int argc, char **argv) {
  FILE *cases = argc > 1 ? fopen(argv[1], "rb") : NULL;
  if (!cases) return 1;
  for (uint64_t left = number(cases); left > 0; left--) {
    size_t bytes = (size_t)number(cases);
    uint64_t calls = number(cases);
    unsigned char *map = malloc(bytes + 64), *memory = map + (64 - (uintptr_t)map % 64);
    read(cases, memory, bytes);
    for (; calls > 0; calls--) {
      uint64_t which = number(cases);
      int64_t a[ARGUMENTS];
      for (int i = 0; i < ARGUMENTS; i++) {
        uint64_t is_offset = number(cases);
        a[i] = (int64_t)number(cases) + (is_offset ? (int64_t)(uintptr_t)memory : 0);
      }
      functions[which](a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
    }
    fwrite(memory, 1, bytes, stdout);
    free(map);
  }
  return 0;
}
