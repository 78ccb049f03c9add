/* Gives a library exactly the memory that its header names, filled with garbage, and calls every
   function. Prints a hash of all results: neither the garbage nor the number of workers may change
   it.
   usage: exact WORKERS FILL [WEIGHTS] */
#include "guarded.h"
#include "pool.h"
#include "smol.h"

#define COUNT 45 /* tokens; more than a panel of the cache, and more than a chunk */

static uint64_t hash = 0xcbf29ce484222325u;

static void add(const void *at, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ ((const unsigned char *)at)[i]) * 0x100000001b3u;
}

/* A status that must be good; it is a result too. */
static int64_t good(const char *what, int64_t status) {
  if (status < 0) {
    fprintf(stderr, "%s: %s\n", what, smol_error((int32_t)status));
    exit(1);
  }
  add(&status, sizeof status);
  return status;
}

static void add_logits(const smol_env *env, const void *state) {
  const float *logits = smol_logits(env, state);
  if (!logits) good("logits", SMOL_E_STATE);
  add(logits, SMOL_VOCAB * sizeof *logits);
}

static void sample(const smol_env *env, void *state) {
  smol_sampling how = {0};
  how.size = sizeof how;
  how.seed = 7;
  good("greedy", smol_sample(env, state, NULL));
  how.temperature = 1.5f;
  good("sample", smol_sample(env, state, &how));
  how.top_k = 20;
  how.top_p = 0.9f;
  how.min_p = 0.01f;
  how.repeat_penalty = 1.1f;
  how.frequency_penalty = how.presence_penalty = 0.1f;
  how.penalty_window = 16;
  good("sample", smol_sample(env, state, &how));
}

static void save_and_load(const smol_env *env, void *state, int fill) {
  size_t bytes = (size_t)good("size", smol_save(state, NULL, 0));
  guarded blob = guard(bytes, fill);
  good("save", smol_save(state, blob.at, bytes));
  add(blob.at, bytes);
  guard_check("blob", blob);
  memset(state, fill, SMOL_STATE_BYTES);
  good("load", smol_load(state, blob.at, bytes));
  add_logits(env, state);
}

static void pieces(void) {
  for (int32_t token = 0; token < SMOL_VOCAB; token++) {
    size_t bytes = (size_t)good("piece", smol_piece(token, NULL, 0));
    guarded piece = guard(bytes, 0);
    good("piece", smol_piece(token, (char *)piece.at, bytes));
    add(piece.at, bytes);
    munmap(piece.map, 2 * GUARD_PAGE);
  }
}

/* The file's bytes, in exactly as much memory. */
static guarded read_weights(const char *path) {
  guarded weights = guard(SMOL_WEIGHTS_BYTES, 0);
  FILE *file = fopen(path, "rb");
  size_t found = file ? fread(weights.at, 1, SMOL_WEIGHTS_BYTES, file) : 0;
  if (found != SMOL_WEIGHTS_BYTES || fgetc(file) != EOF) {
    fprintf(stderr, "%s: not SMOL_WEIGHTS_BYTES\n", path);
    exit(1);
  }
  fclose(file);
  return weights;
}

int main(int argc, char **argv) {
  smol_env env = {0};
  int fill = argc > 2 ? (int)strtol(argv[2], NULL, 16) : 0;
  guarded state = guard(SMOL_STATE_BYTES, fill), scratch = guard(SMOL_SCRATCH_BYTES, fill);
  guarded tokens = guard(COUNT * sizeof(int32_t), 0), one = guard(sizeof(int32_t), 0);
  guarded logprobs = guard((COUNT - 1) * sizeof(float), fill), weights = {NULL, NULL};
  pool *threads;
  env.size = sizeof env;
  env.scratch = scratch.at;
  env.scratch_bytes = SMOL_SCRATCH_BYTES;
  env.workers = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
  env.user = threads = pool_start(env.workers);
  if (env.workers > 1) env.parallel = pool_run;
  if (argc > 3) weights = read_weights(argv[3]);
  env.weights = weights.at;
  for (int32_t i = 0; i < COUNT; i++) ((int32_t *)tokens.at)[i] = (i * 37 + 11) % SMOL_VOCAB;

  good("init", smol_init(&env, state.at, SMOL_STATE_BYTES));
  good("prefill", smol_prefill(&env, state.at, (int32_t *)tokens.at, COUNT));
  add_logits(&env, state.at);
  sample(&env, state.at);
  good("decode", smol_decode(&env, state.at, 3));
  add_logits(&env, state.at);
  save_and_load(&env, state.at, fill);
  good("prefill", smol_prefill(&env, state.at, (int32_t *)one.at, 1));
  add_logits(&env, state.at);
  good("truncate", smol_truncate(state.at, 20));
  good("score", smol_score(&env, state.at, (int32_t *)tokens.at, COUNT, (float *)logprobs.at));
  add(logprobs.at, (COUNT - 1) * sizeof(float));
  add_logits(&env, state.at);
  good("position", smol_position(state.at));
  pieces();

  guard_check("state", state);
  guard_check("scratch", scratch);
  guard_check("tokens", tokens);
  guard_check("logprobs", logprobs);
  printf("%016llx\n", (unsigned long long)hash);
  pool_stop(threads);
  return 0;
}
