/* Threads for `parallel` of an ingot library: POSIX, C99.

     pool *threads = pool_start(4);
     env.workers = 4;
     env.user = threads;
     env.parallel = pool_run;

   One pool serves one call at a time. */
#ifndef POOL_H
#define POOL_H

#include <stdint.h>

typedef struct pool pool;

/* A pool that runs `workers` tasks at the same time, the calling thread's included. NULL if there is
   no memory or a thread cannot be had. */
pool *pool_start(uint32_t workers);

/* Runs task(arg, 0) .. task(arg, n - 1) at the same time and returns when all have ended; n is at
   most the pool's workers, and `threads` is the pool. */
void pool_run(void *threads, uint32_t n, void (*task)(void *arg, uint32_t index), void *arg);

/* Ends the threads. */
void pool_stop(pool *threads);

#endif
