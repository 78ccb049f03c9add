/* As continue.c, with all a larger machine has: weights from a file in huge pages (a library built
   with --weights external), and several threads.
   usage: threads WEIGHTS WORKERS COUNT ID...  Prints the new ids. */
#include "huge.h"
#include "pool.h"
#include "smol.h"

#include <stdio.h>
#include <stdlib.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static int32_t prompt[SMOL_CONTEXT];

static int run(const smol_env *env, size_t count, int more) {
  int32_t status = smol_init(env, state, sizeof state);
  if (status == SMOL_OK) status = smol_prefill(env, state, prompt, count);
  while (status >= 0 && more-- > 0) {
    int32_t token = smol_sample(env, state, NULL);
    if (token < 0) return token;
    printf("%d ", token);
    if (SMOL_IS_EOS(token)) break;
    if (more) status = smol_decode(env, state, token);
  }
  putchar('\n');
  return status;
}

int main(int argc, char **argv) {
  smol_env env = {0};
  size_t count = 0;
  pool *threads;
  int status;
  if (argc < 5) return fprintf(stderr, "usage: threads WEIGHTS WORKERS COUNT ID...\n"), 2;
  for (int i = 4; i < argc && count < SMOL_CONTEXT; i++) prompt[count++] = atoi(argv[i]);
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  env.weights = huge_load(argv[1], SMOL_WEIGHTS_BYTES);
  env.workers = (uint32_t)atoi(argv[2]);
  if (env.workers < 1) env.workers = 1;
  if (env.workers > SMOL_MAX_WORKERS) env.workers = SMOL_MAX_WORKERS;
  threads = pool_start(env.workers);
  if (!threads) return fprintf(stderr, "threads: no threads\n"), 1;
  env.user = threads;
  env.parallel = pool_run;
  status = run(&env, count, atoi(argv[3]));
  if (status < 0) fprintf(stderr, "threads: %s\n", smol_error(status));
  pool_stop(threads);
  return status < 0;
}
