/* Writes a story with the model in examples/models/shakespeare.
   usage: story [SEED [TOKENS]]  Each seed is another story; the same seed is the same one anywhere. */
#include "shakespeare.h"

#include <stdio.h>
#include <stdlib.h>

static unsigned char state[SHAKESPEARE_STATE_BYTES] __attribute__((aligned(SHAKESPEARE_ALIGN)));
static unsigned char scratch[SHAKESPEARE_SCRATCH_BYTES] __attribute__((aligned(SHAKESPEARE_ALIGN)));

static void print_piece(int32_t token) {
  char piece[64];
  size_t bytes = (size_t)shakespeare_piece(token, piece, sizeof piece);
  fwrite(piece, 1, bytes < sizeof piece ? bytes : sizeof piece, stdout);
  fflush(stdout);
}

int main(int argc, char **argv) {
  shakespeare_env env = {0};
  shakespeare_sampling how = {0};
  int32_t token = SHAKESPEARE_BOS, status;
  int left = argc > 2 ? atoi(argv[2]) : 250;
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  how.size = sizeof how;
  how.seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
  how.temperature = 0.8f;
  how.top_p = 0.9f;

  status = shakespeare_init(&env, state, sizeof state);
  while (status == SHAKESPEARE_OK && left-- > 0) {
    status = shakespeare_decode(&env, state, token);
    if (status == SHAKESPEARE_E_CONTEXT) break; /* the story is as long as it can be */
    if (status < 0) continue;
    token = shakespeare_sample(&env, state, &how);
    if (token < 0) status = token;
    else if (SHAKESPEARE_IS_EOS(token)) break;
    else print_piece(token);
  }
  putchar('\n');
  if (status < 0 && status != SHAKESPEARE_E_CONTEXT) {
    fprintf(stderr, "story: %s\n", shakespeare_error(status));
    return 1;
  }
  return 0;
}
