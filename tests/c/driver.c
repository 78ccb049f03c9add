/* Prints what a library says of one prompt, as bits, so that machines can be compared.
   usage: driver COUNT ID...  Prints the logits after the prompt, COUNT tokens that follow it, and the
   log-probabilities of its tokens from the second on. */
#include "smol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static int32_t prompt[SMOL_CONTEXT];
static float logits[SMOL_VOCAB], logprobs[SMOL_CONTEXT];

static int32_t check(const char *what, int32_t status) {
  if (status >= 0) return status;
  fprintf(stderr, "%s: %s\n", what, smol_error(status));
  exit(1);
}

static void print(const char *what, const float *values, size_t count) {
  printf("%s", what);
  for (size_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, &values[i], sizeof bits);
    printf(" %08x", (unsigned)bits);
  }
  putchar('\n');
}

int main(int argc, char **argv) {
  smol_env env = {0};
  size_t count = 0;
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  for (int i = 2; i < argc; i++) prompt[count++] = atoi(argv[i]);

  check("init", smol_init(&env, state, sizeof state));
  check("score", smol_score(&env, state, prompt, count, logprobs));
  memcpy(logits, smol_logits(&env, state), sizeof logits);

  check("init", smol_init(&env, state, sizeof state));
  check("prefill", smol_prefill(&env, state, prompt, count));
  if (memcmp(logits, smol_logits(&env, state), sizeof logits)) {
    fprintf(stderr, "prefill and score leave different logits\n");
    return 1;
  }
  print("logits", logits, SMOL_VOCAB);
  printf("greedy");
  for (int i = 0; i < atoi(argv[1]); i++) {
    int32_t token = check("sample", smol_sample(&env, state, NULL));
    printf(" %d", (int)token);
    if (SMOL_IS_EOS(token)) break;
    check("decode", smol_decode(&env, state, token));
  }
  putchar('\n');
  print("logprobs", logprobs, count - 1);
  return 0;
}
