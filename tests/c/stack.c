/* Measures how much stack the functions take, on the calling thread and on worker threads: every
   thread runs on memory of ours that is painted before a call and looked at after it.
   usage: stack WORKERS  Prints a line per function, its name and the most bytes that the library took
   of one thread's stack, and at last the bound that the header gives. */
#define _XOPEN_SOURCE 600
#include "smol.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACK_BYTES (256 << 10)
#define PAINT 0xa5
#define COUNT 40

static unsigned char stacks[SMOL_MAX_WORKERS + 1][STACK_BYTES] __attribute__((aligned(65536)));
static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char blob[SMOL_STATE_BYTES];
static int32_t tokens[COUNT];
static float logprobs[COUNT];
static smol_env env;
static smol_sampling how;

#if defined(__x86_64__)
#define STACK_POINTER(p) __asm__ volatile("mov %%rsp, %0" : "=r"(p))
#else
#define STACK_POINTER(p) __asm__ volatile("mov %0, sp" : "=r"(p))
#endif

/* Paints what the function that this stands in does not use of `stack`, makes a call, and leaves in
   `bytes` how far below the function's own stack pointer the paint is gone. Inline, for a function
   that painted would paint over itself. */
#define MEASURE(stack, bytes, call)                                        \
  do {                                                                     \
    unsigned char *pointer, *lowest = (stack);                             \
    STACK_POINTER(pointer);                                                \
    for (volatile unsigned char *p = lowest; p < pointer; p++) *p = PAINT; \
    call;                                                                  \
    while (lowest < pointer && *lowest == PAINT) lowest++;                 \
    (bytes) = (size_t)(pointer - lowest);                                  \
  } while (0)

static void report(const char *name, int64_t status, size_t bytes) {
  if (status < 0) exit((fprintf(stderr, "%s: %s\n", name, smol_error((int32_t)status)), 1));
  printf("%s %zu\n", name, bytes);
}

#define REPORT(name, call)                 \
  do {                                     \
    int64_t status;                        \
    size_t bytes;                          \
    MEASURE(stack, bytes, status = (call)); \
    report(name, status, bytes);           \
  } while (0)

/* Every function, with the arguments that make it work hardest. */
static void *measure_functions(void *stack) {
  how.size = sizeof how;
  how.temperature = 1.0f;
  how.top_k = 40;
  how.top_p = 0.9f;
  how.min_p = 0.01f;
  how.repeat_penalty = 1.1f;
  REPORT("init", smol_init(&env, state, sizeof state));
  REPORT("prefill", smol_prefill(&env, state, tokens, COUNT));
  REPORT("decode", smol_decode(&env, state, 1));
  REPORT("score", smol_score(&env, state, tokens, COUNT, logprobs));
  REPORT("logits", smol_logits(&env, state) == NULL);
  REPORT("greedy", smol_sample(&env, state, NULL));
  REPORT("sample", smol_sample(&env, state, &how));
  REPORT("position", smol_position(state));
  REPORT("save", smol_save(state, blob, sizeof blob));
  REPORT("truncate", smol_truncate(state, 7));
  REPORT("load", smol_load(state, blob, sizeof blob));
  REPORT("piece", smol_piece(30, (char *)blob, sizeof blob));
  REPORT("error", smol_error(-1) == NULL);
  return NULL;
}

/* One task of a call, on a thread that lives as long. */
struct task {
  void (*run)(void *arg, uint32_t index);
  void *arg;
  uint32_t index;
  size_t bytes;
};

static void *run_task(void *at) {
  struct task *task = at;
  MEASURE(stacks[task->index + 1], task->bytes, task->run(task->arg, task->index));
  return NULL;
}

static pthread_t start(unsigned char *stack, void *(*body)(void *), void *argument) {
  pthread_attr_t attributes;
  pthread_t thread;
  if (pthread_attr_init(&attributes) || pthread_attr_setstack(&attributes, stack, STACK_BYTES) ||
      pthread_create(&thread, &attributes, body, argument)) {
    perror("thread");
    exit(1);
  }
  return thread;
}

/* What a worker takes is printed at once: the caller's own stack also holds this function. */
static void parallel(void *user, uint32_t n, void (*run)(void *, uint32_t), void *arg) {
  pthread_t threads[SMOL_MAX_WORKERS];
  struct task tasks[SMOL_MAX_WORKERS];
  (void)user;
  for (uint32_t i = 0; i < n; i++) {
    struct task task = {run, arg, i, 0};
    tasks[i] = task;
    threads[i] = start(stacks[i + 1], run_task, &tasks[i]);
  }
  for (uint32_t i = 0; i < n; i++) {
    pthread_join(threads[i], NULL);
    report("worker", 0, tasks[i].bytes);
  }
}

static void *measure_workers(void *unused) {
  (void)unused;
  env.workers = SMOL_MAX_WORKERS < 2 ? SMOL_MAX_WORKERS : 2;
  env.parallel = parallel;
  if (smol_truncate(state, 0) || smol_prefill(&env, state, tokens, COUNT) ||
      smol_decode(&env, state, 1) || smol_score(&env, state, tokens, COUNT, logprobs))
    exit(1);
  return NULL;
}

int main(void) {
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  for (int32_t i = 0; i < COUNT; i++) tokens[i] = i;
  pthread_join(start(stacks[0], measure_functions, stacks[0]), NULL);
  measure_workers(NULL);
  report("bound", 0, (size_t)SMOL_STACK_BYTES);
  return 0;
}
