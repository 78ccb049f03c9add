/* See pool.h. Every field that threads share is guarded by the lock, but for `job`, which a thread
   also watches without it for a while: a decoded token asks for the next job at once, and waking a
   sleeping thread takes longer than a small layer. */
#include "pool.h"

#include <pthread.h>
#include <stdlib.h>

#define SPINS 20000

struct pool {
  pthread_mutex_t lock;
  pthread_cond_t wake; /* there is a job, or the pool stops */
  pthread_cond_t done; /* the last task has ended */
  uint32_t job;        /* counts jobs; threads take part when it changes */
  uint32_t n;          /* tasks of the job */
  uint32_t left;       /* tasks that have not ended, the caller's not counted */
  uint32_t threads;    /* started, the caller's not counted */
  uint32_t named;      /* threads that have taken their index */
  int stop;
  void (*task)(void *arg, uint32_t index);
  void *arg;
  pthread_t ids[];
};

/* Looks for a job other than `seen` without the lock. */
static void watch(pool *p, uint32_t seen) {
  for (int i = 0; i < SPINS && __atomic_load_n(&p->job, __ATOMIC_ACQUIRE) == seen; i++) continue;
}

static void *serve(void *at) {
  pool *p = at;
  uint32_t index, seen = 0;
  pthread_mutex_lock(&p->lock);
  index = ++p->named;
  for (;;) {
    while (p->job == seen && !p->stop) pthread_cond_wait(&p->wake, &p->lock);
    if (p->stop) break;
    seen = p->job;
    if (index >= p->n) continue;
    pthread_mutex_unlock(&p->lock);
    p->task(p->arg, index); /* neither changes before this task has ended */
    pthread_mutex_lock(&p->lock);
    if (--p->left == 0) pthread_cond_signal(&p->done);
    pthread_mutex_unlock(&p->lock);
    watch(p, seen);
    pthread_mutex_lock(&p->lock);
  }
  pthread_mutex_unlock(&p->lock);
  return NULL;
}

pool *pool_start(uint32_t workers) {
  pool *p = calloc(1, sizeof *p + workers * sizeof p->ids[0]);
  if (!p) return NULL;
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->wake, NULL);
  pthread_cond_init(&p->done, NULL);
  while (p->threads + 1 < workers) {
    if (pthread_create(&p->ids[p->threads], NULL, serve, p)) {
      pool_stop(p);
      return NULL;
    }
    p->threads++;
  }
  return p;
}

void pool_run(void *threads, uint32_t n, void (*task)(void *arg, uint32_t index), void *arg) {
  pool *p = threads;
  pthread_mutex_lock(&p->lock);
  p->task = task;
  p->arg = arg;
  p->n = n;
  p->left = n - 1;
  __atomic_store_n(&p->job, p->job + 1, __ATOMIC_RELEASE);
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->lock);
  task(arg, 0);
  pthread_mutex_lock(&p->lock);
  while (p->left) pthread_cond_wait(&p->done, &p->lock);
  pthread_mutex_unlock(&p->lock);
}

void pool_stop(pool *threads) {
  pthread_mutex_lock(&threads->lock);
  threads->stop = 1;
  pthread_cond_broadcast(&threads->wake);
  pthread_mutex_unlock(&threads->lock);
  for (uint32_t i = 0; i < threads->threads; i++) pthread_join(threads->ids[i], NULL);
  free(threads);
}
