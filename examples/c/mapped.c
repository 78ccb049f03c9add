/* As continue.c, with weights that are mapped from a file (a library built with --weights external):
   they take no memory of the program's own, and several programs share them.
   usage: mapped WEIGHTS COUNT ID...  Prints the new ids. */
#include "smol.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static int32_t prompt[SMOL_CONTEXT];

/* The file in memory, on pages and so aligned; NULL if it is none of this size. */
static const void *map(const char *path) {
  int file = open(path, O_RDONLY);
  struct stat facts;
  void *at;
  if (file < 0 || fstat(file, &facts) != 0 || facts.st_size != (off_t)SMOL_WEIGHTS_BYTES) return NULL;
  at = mmap(NULL, SMOL_WEIGHTS_BYTES, PROT_READ, MAP_SHARED, file, 0);
  return at == MAP_FAILED ? NULL : at;
}

int main(int argc, char **argv) {
  smol_env env = {0};
  size_t count = 0;
  int32_t status;
  if (argc < 4) return fprintf(stderr, "usage: mapped WEIGHTS COUNT ID...\n"), 2;
  for (int i = 3; i < argc && count < SMOL_CONTEXT; i++) prompt[count++] = atoi(argv[i]);
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  env.weights = map(argv[1]);

  status = smol_verify(&env); /* reads everything once; leave it out where the file is trusted */
  if (status == SMOL_OK) status = smol_init(&env, state, sizeof state);
  if (status == SMOL_OK) status = smol_prefill(&env, state, prompt, count);
  for (int left = atoi(argv[2]); status == SMOL_OK && left > 0; left--) {
    int32_t token = smol_sample(&env, state, NULL);
    if (token < 0) {
      status = token;
      break;
    }
    printf("%d ", token);
    if (SMOL_IS_EOS(token)) break;
    status = smol_decode(&env, state, token);
  }
  putchar('\n');
  if (status < 0) return fprintf(stderr, "mapped: %s\n", smol_error(status)), 1;
  return 0;
}
