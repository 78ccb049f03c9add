/* Reads a prompt, decodes a few tokens, and does nothing else, for counting instructions;
   usage: count PROMPT TOKENS */
#include "smol.h"

#include <stdlib.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static int32_t prompt[SMOL_CONTEXT];

int main(int argc, char **argv) {
  smol_env env = {0};
  size_t length = argc > 1 ? (size_t)atoi(argv[1]) : 0;
  int tokens = argc > 2 ? atoi(argv[2]) : 0;
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  if (smol_init(&env, state, sizeof state) < 0) return 1;
  if (length > 0 && smol_prefill(&env, state, prompt, length) < 0) return 1;
  while (tokens-- > 0) {
    if (smol_decode(&env, state, 5) < 0) return 1;
  }
  return 0;
}
