/* Bytes of tokens as they come, in whole characters. */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>

/* How many of the bytes may be shown: all but the last ones that begin a character whose end is not
   there yet. What is no UTF-8 is not held back. */
static inline size_t utf8_whole(const char *text, size_t bytes) {
  size_t back = 0;
  while (back < 3 && back < bytes && ((unsigned char)text[bytes - 1 - back] & 0xc0) == 0x80) back++;
  if (back < bytes) {
    unsigned char first = (unsigned char)text[bytes - 1 - back];
    size_t needed = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 1;
    if (first < 0xf5 && back + 1 < needed) return bytes - back - 1;
  }
  return bytes;
}

#endif
