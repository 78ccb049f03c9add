/* Decodes a few tokens and nothing else, for counting instructions; usage: count TOKENS */
#include "smol.h"

#include <stdlib.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));

int main(int argc, char **argv) {
  smol_env env = {0};
  int tokens = argc > 1 ? atoi(argv[1]) : 1;
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  if (smol_init(&env, state, sizeof state) < 0) return 1;
  while (tokens-- > 0) {
    if (smol_decode(&env, state, 5) < 0) return 1;
  }
  return 0;
}
