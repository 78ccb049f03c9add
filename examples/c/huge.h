/* Weights from a file of their own into huge pages (Linux). Decoding reads every weight once per
   token; with ordinary pages a processor spends much of that time looking addresses up, on virtual
   machines half of it. Without huge pages everything works, only slower. */
#ifndef HUGE_H
#define HUGE_H

#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* madvise */
#endif
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* The first `bytes` bytes of a file, aligned to a huge page; NULL if the file is shorter, cannot be
   read, or there is no memory. They stay until the program ends. */
static inline const void *huge_load(const char *path, size_t bytes) {
  int file = open(path, O_RDONLY);
  size_t done = 0, room = bytes + 2 * HUGE_PAGE;
  char *to = (char *)mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (file < 0 || to == (char *)MAP_FAILED) return NULL;
  to += HUGE_PAGE - (uintptr_t)to % HUGE_PAGE;
  (void)madvise(to, bytes, MADV_HUGEPAGE); /* before the first touch, which decides the page's size */
  while (done < bytes) {
    ssize_t n = read(file, to + done, bytes - done);
    if (n <= 0) break;
    done += (size_t)n;
  }
  close(file);
  return done == bytes ? to : NULL;
}

#endif
