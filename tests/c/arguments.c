/* Calls that a library must refuse, each with the status that says why, and what each call leaves of
   the state: everything as it was. Built with --weights external; usage: arguments WEIGHTS */
#include "smol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char state[SMOL_STATE_BYTES + SMOL_ALIGN] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char before[SMOL_STATE_BYTES];
static unsigned char fresh[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES + SMOL_ALIGN] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char weights[SMOL_WEIGHTS_BYTES + SMOL_ALIGN] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char other[SMOL_ALIGN] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char blob[2 * SMOL_STATE_BYTES], damaged[2 * SMOL_STATE_BYTES];
static int32_t tokens[SMOL_CONTEXT + 1], bad[2] = {1, SMOL_VOCAB};
static float logprobs[SMOL_CONTEXT];
static char text[64];
static int wrong;

/* An environment with one field another. */
#define ENV(field, value) (other_env = env, other_env.field = (value), &other_env)
/* Sampling options with one field set. */
#define HOW(field, value) (how = greedy, how.field = (value), &how)
/* The call must return the status and leave the state alone. */
#define REFUSED(status, call)                                                         \
  do {                                                                                \
    memcpy(before, state, sizeof before);                                             \
    expect(#call, (long long)(call), status);                                         \
    if (memcmp(before, state, sizeof before)) {                                       \
      printf("%s changes the state\n", #call);                                        \
      wrong = 1;                                                                      \
    }                                                                                 \
  } while (0)
#define FINE(call) expect(#call, (call) >= 0, 1)

static void expect(const char *call, long long found, long long expected) {
  if (found == expected) return;
  printf("%s: found %lld, expected %lld\n", call, found, expected);
  wrong = 1;
}

static void environments(smol_env env) {
  smol_env other_env;
  REFUSED(SMOL_E_ENV, smol_init(NULL, state, SMOL_STATE_BYTES));
  REFUSED(SMOL_E_ENV, smol_prefill(NULL, state, tokens, 1));
  REFUSED(SMOL_E_ENV, smol_decode(ENV(size, sizeof env - 1), state, 1));
  REFUSED(SMOL_E_ENV, smol_score(ENV(size, 0), state, tokens, 2, logprobs));
  REFUSED(SMOL_E_ENV, smol_sample(NULL, state, NULL));
  REFUSED(SMOL_E_SCRATCH, smol_decode(ENV(scratch, scratch + 1), state, 1));
  REFUSED(SMOL_E_SCRATCH, smol_init(ENV(scratch, NULL), state, SMOL_STATE_BYTES));
  REFUSED(SMOL_E_SCRATCH, smol_decode(ENV(scratch_bytes, SMOL_SCRATCH_BYTES - 1), state, 1));
  REFUSED(SMOL_E_SCRATCH, smol_sample(ENV(scratch_bytes, 0), state, NULL));
  REFUSED(SMOL_E_WEIGHTS, smol_init(ENV(weights, NULL), state, SMOL_STATE_BYTES));
  REFUSED(SMOL_E_WEIGHTS, smol_decode(ENV(weights, NULL), state, 1));
  REFUSED(SMOL_E_WEIGHTS, smol_decode(ENV(weights, weights + 4), state, 1));
  REFUSED(SMOL_E_WEIGHTS, smol_decode(ENV(weights, other), state, 1));
  memcpy(other, weights, 8); /* the right kind of file, of another model */
  REFUSED(SMOL_E_WEIGHTS, smol_decode(ENV(weights, other), state, 1));
}

/* Weights are read in place, so bits can be turned in this copy. */
static void checked_weights(const smol_env *env) {
  FINE(smol_verify(env));
  weights[SMOL_WEIGHTS_BYTES / 2] ^= 1;
  REFUSED(SMOL_E_DAMAGED, smol_verify(env));
  weights[SMOL_WEIGHTS_BYTES / 2] ^= 1;
  weights[SMOL_WEIGHTS_BYTES - 1] ^= 0x80;
  REFUSED(SMOL_E_DAMAGED, smol_verify(env));
  weights[SMOL_WEIGHTS_BYTES - 1] ^= 0x80;
  weights[48] ^= 1; /* the hash of other weights in the same shapes */
  REFUSED(SMOL_E_WEIGHTS, smol_init(env, state, SMOL_STATE_BYTES));
  REFUSED(SMOL_E_WEIGHTS, smol_decode(env, state, 1));
  REFUSED(SMOL_E_WEIGHTS, smol_verify(env));
  weights[48] ^= 1;
  FINE(smol_verify(env));
}

static void states(const smol_env *env) {
  REFUSED(SMOL_E_STATE, smol_init(env, NULL, SMOL_STATE_BYTES));
  REFUSED(SMOL_E_ALIGN, smol_init(env, state + 8, SMOL_STATE_BYTES));
  REFUSED(SMOL_E_SIZE, smol_init(env, state, SMOL_STATE_BYTES - 1));
  REFUSED(SMOL_E_STATE, smol_decode(env, NULL, 1));
  REFUSED(SMOL_E_ALIGN, smol_decode(env, state + 32, 1));
  REFUSED(SMOL_E_STATE, smol_decode(env, fresh, 1));
  REFUSED(SMOL_E_STATE, smol_score(env, fresh, tokens, 2, logprobs));
  REFUSED(SMOL_E_STATE, smol_sample(env, fresh, NULL));
  REFUSED(SMOL_E_STATE, smol_truncate(fresh, 0));
  REFUSED(SMOL_E_STATE, smol_truncate(NULL, 0));
  REFUSED(SMOL_E_ALIGN, smol_truncate(state + 1, 0));
  REFUSED(SMOL_E_ARG, smol_truncate(state, smol_position(state) + 1));
  REFUSED(0, smol_position(NULL));
  REFUSED(0, smol_position(fresh));
  REFUSED(1, smol_logits(env, NULL) == NULL);
  REFUSED(1, smol_logits(env, fresh) == NULL);
  REFUSED(1, smol_logits(env, state + 4) == NULL);
}

static void token_lists(const smol_env *env) {
  int32_t low = -1;
  REFUSED(SMOL_E_ARG, smol_prefill(env, state, NULL, 1));
  REFUSED(SMOL_E_ARG, smol_prefill(env, state, tokens, 0));
  REFUSED(SMOL_E_ARG, smol_score(env, state, NULL, 2, logprobs));
  REFUSED(SMOL_E_ARG, smol_score(env, state, tokens, 0, logprobs));
  REFUSED(SMOL_E_ARG, smol_score(env, state, tokens, 2, NULL));
  REFUSED(SMOL_E_TOKEN, smol_prefill(env, state, bad, 2));
  REFUSED(SMOL_E_TOKEN, smol_score(env, state, bad, 2, logprobs));
  REFUSED(SMOL_E_TOKEN, smol_prefill(env, state, &low, 1));
  REFUSED(SMOL_E_TOKEN, smol_decode(env, state, -1));
  REFUSED(SMOL_E_TOKEN, smol_decode(env, state, SMOL_VOCAB));
  REFUSED(SMOL_E_TOKEN, smol_decode(env, state, INT32_MIN));
  REFUSED(SMOL_E_CONTEXT, smol_prefill(env, state, tokens, SMOL_CONTEXT));
  REFUSED(SMOL_E_CONTEXT, smol_prefill(env, state, tokens, SIZE_MAX));
  REFUSED(SMOL_E_CONTEXT, smol_prefill(env, state, tokens, SIZE_MAX / 4 + 2));
  REFUSED(SMOL_E_CONTEXT, smol_score(env, state, tokens, SMOL_CONTEXT, logprobs));
}

static void samplings(const smol_env *env) {
  smol_sampling greedy = {0}, how;
  float not_a_number = (float)strtod("nan", NULL);
  greedy.size = sizeof greedy;
  REFUSED(SMOL_E_ARG, smol_sample(env, state, HOW(size, sizeof greedy - 1)));
  REFUSED(SMOL_E_ARG, smol_sample(env, state, HOW(temperature, -1.0f)));
  REFUSED(SMOL_E_ARG, smol_sample(env, state, HOW(temperature, not_a_number)));
  REFUSED(SMOL_E_ARG, smol_sample(env, state, HOW(top_p, 1.5f)));
  REFUSED(SMOL_E_ARG, smol_sample(env, state, HOW(min_p, -0.1f)));
  REFUSED(SMOL_E_ARG, smol_sample(env, state, HOW(repeat_penalty, -2.0f)));
  REFUSED(SMOL_E_ARG, smol_sample(env, state, HOW(frequency_penalty, not_a_number)));
  REFUSED(SMOL_E_ARG, smol_sample(env, state, HOW(presence_penalty, not_a_number)));
}

static void saved(const smol_env *env) {
  int64_t bytes = smol_save(state, blob, sizeof blob);
  FINE(bytes);
  REFUSED(bytes, smol_save(state, NULL, 0));
  REFUSED(SMOL_E_SIZE, smol_save(state, blob, (size_t)bytes - 1));
  REFUSED(SMOL_E_ARG, smol_save(state, NULL, (size_t)bytes));
  REFUSED(SMOL_E_STATE, smol_save(fresh, blob, sizeof blob));
  REFUSED(SMOL_E_ALIGN, smol_save(state + 1, blob, sizeof blob));
  REFUSED(SMOL_E_ARG, smol_load(state, NULL, (size_t)bytes));
  REFUSED(SMOL_E_ARG, smol_load(NULL, blob, (size_t)bytes));
  REFUSED(SMOL_E_ALIGN, smol_load(state + 1, blob, (size_t)bytes));
  REFUSED(SMOL_E_BLOB, smol_load(state, blob, (size_t)bytes - 1));
  REFUSED(SMOL_E_BLOB, smol_load(state, blob, 0));
  for (int64_t i = 0; i < bytes; i += i < 64 ? 1 : 97) {
    memcpy(damaged, blob, (size_t)bytes);
    damaged[i] ^= 4;
    REFUSED(i >= 8 && i < 16 ? SMOL_E_MODEL : SMOL_E_BLOB, smol_load(state, damaged, (size_t)bytes));
  }
  (void)env;
}

static void pieces(void) {
  REFUSED(SMOL_E_TOKEN, smol_piece(-1, text, sizeof text));
  REFUSED(SMOL_E_TOKEN, smol_piece(SMOL_VOCAB, text, sizeof text));
  REFUSED(SMOL_E_ARG, smol_piece(30, NULL, 1));
  REFUSED(0, smol_error(12345) == NULL);
  REFUSED(0, smol_error(INT32_MIN) == NULL);
  REFUSED(0, strcmp(smol_error(SMOL_E_CONTEXT), "the context is full"));
}

/* The last position can be used; there is none after it. */
static void full(const smol_env *env) {
  FINE(smol_init(env, state, SMOL_STATE_BYTES));
  REFUSED(1, smol_logits(env, state) == NULL);
  REFUSED(SMOL_E_STATE, smol_sample(env, state, NULL));
  REFUSED(SMOL_E_CONTEXT, smol_prefill(env, state, tokens, SMOL_CONTEXT + 1));
  FINE(smol_prefill(env, state, tokens, SMOL_CONTEXT - 1));
  REFUSED(SMOL_E_CONTEXT, smol_prefill(env, state, tokens, 2));
  FINE(smol_decode(env, state, 1));
  expect("a full context", smol_position(state), SMOL_CONTEXT);
  REFUSED(SMOL_E_CONTEXT, smol_decode(env, state, 1));
  FINE(smol_sample(env, state, NULL));
  FINE(smol_truncate(state, 0));
  REFUSED(SMOL_E_STATE, smol_sample(env, state, NULL));
  FINE(smol_prefill(env, state, tokens, SMOL_CONTEXT));
}

int main(int argc, char **argv) {
  smol_env env = {0};
  FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
  if (!file || fread(weights, 1, SMOL_WEIGHTS_BYTES, file) != SMOL_WEIGHTS_BYTES) return 2;
  fclose(file);
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = SMOL_SCRATCH_BYTES;
  env.weights = weights;
  for (int32_t i = 0; i <= SMOL_CONTEXT; i++) tokens[i] = i % SMOL_VOCAB;
  FINE(smol_init(&env, state, SMOL_STATE_BYTES));
  FINE(smol_prefill(&env, state, tokens, 5));
  environments(env);
  checked_weights(&env);
  states(&env);
  token_lists(&env);
  samplings(&env);
  saved(&env);
  pieces();
  full(&env);
  return wrong;
}
