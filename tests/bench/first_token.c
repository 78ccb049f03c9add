/* Prints the likeliest token after a prompt: what a program does between its start and its first
   word. Weights of `--weights external` are mapped as an ordinary file.
   usage: first_token WEIGHTS WORKERS ID... */
#define _DEFAULT_SOURCE /* mmap */
#include "pool.h"
#include "smol.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static int32_t prompt[SMOL_CONTEXT];

static const void *map(const char *path) {
  int file = open(path, O_RDONLY);
  void *to = file < 0 ? MAP_FAILED : mmap(NULL, SMOL_WEIGHTS_BYTES, PROT_READ, MAP_SHARED, file, 0);
  return to == MAP_FAILED ? NULL : to;
}

int main(int argc, char **argv) {
  smol_env env = {0};
  size_t count = 0;
  char piece[256];
  int32_t status;
  if (argc < 4) return fprintf(stderr, "usage: first_token WEIGHTS WORKERS ID...\n"), 2;
  for (int i = 3; i < argc && count < SMOL_CONTEXT; i++) prompt[count++] = atoi(argv[i]);
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  env.weights = map(argv[1]);
  env.workers = (uint32_t)atoi(argv[2]);
  if (env.workers > 1) {
    env.user = pool_start(env.workers);
    env.parallel = pool_run;
  }
  status = smol_init(&env, state, sizeof state);
  if (status >= 0) status = smol_prefill(&env, state, prompt, count);
  if (status >= 0) status = smol_sample(&env, state, NULL);
  if (status < 0) return fprintf(stderr, "first_token: %s\n", smol_error(status)), 1;
  fwrite(piece, 1, (size_t)smol_piece(status, piece, sizeof piece), stdout);
  return fflush(stdout);
}
