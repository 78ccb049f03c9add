/* Cancels calls at every step that asks, and compares what is left with what was.
   usage: cancel WORKERS */
#include "pool.h"
#include "smol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST 10 /* tokens of the conversation that must survive */
#define MORE 12  /* tokens of the call that is cancelled: several chunks */

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char saved[SMOL_STATE_BYTES], again[SMOL_STATE_BYTES];
static int32_t tokens[FIRST + MORE];
static float logits[SMOL_VOCAB], expected[SMOL_VOCAB], logprobs[MORE];

/* What poll is asked, and when it says stop. */
struct watch {
  uint32_t asked, stop_at, total;
  int wrong;
  pool *threads;
};

static void forget(struct watch *watch) {
  watch->asked = watch->stop_at = 0;
}

static int poll(void *user, uint32_t done, uint32_t total) {
  struct watch *watch = user;
  watch->asked++;
  if (done != watch->asked || done > total || (watch->asked > 1 && total != watch->total))
    watch->wrong = 1;
  watch->total = total;
  return watch->asked == watch->stop_at;
}

static void parallel(void *user, uint32_t n, void (*task)(void *, uint32_t), void *arg) {
  pool_run(((struct watch *)user)->threads, n, task, arg);
}

static void check(const char *what, int holds) {
  if (holds) return;
  fprintf(stderr, "not so: %s\n", what);
  exit(1);
}

static void keep_logits(const smol_env *env, float *to) {
  memcpy(to, smol_logits(env, state), sizeof logits);
}

/* One call of `kind`, cancelled at step `stop_at` or never; the steps it asked at. */
static uint32_t call(const smol_env *env, int kind, uint32_t stop_at, int32_t status) {
  struct watch *watch = env->user;
  int32_t found;
  forget(watch);
  watch->stop_at = stop_at;
  if (kind == 0) found = smol_prefill(env, state, tokens + FIRST, MORE);
  else if (kind == 1) found = smol_score(env, state, tokens + FIRST, MORE, logprobs);
  else found = smol_decode(env, state, tokens[FIRST]);
  if (found != status) fprintf(stderr, "%s\n", smol_error(found));
  check("the status is as expected", found == status);
  check("poll hears 1, 2, 3, ... of the same total", !watch->wrong);
  return watch->asked;
}

static void try_all(const smol_env *env, int kind) {
  const struct watch *watch = env->user;
  uint32_t steps;
  int64_t bytes;
  forget(env->user);
  check("truncate", smol_truncate(state, 0) == SMOL_OK);
  check("prefill", smol_prefill(env, state, tokens, FIRST) == SMOL_OK);
  keep_logits(env, logits);
  bytes = smol_save(state, saved, sizeof saved);

  steps = call(env, kind, 0, SMOL_OK);
  check("the last step is the total", steps == watch->total && steps > 0);
  keep_logits(env, expected);
  for (uint32_t stop = 1; stop <= steps; stop++) {
    check("load", smol_load(state, saved, (size_t)bytes) == SMOL_OK);
    check("it stops where it is told", call(env, kind, stop, SMOL_E_CANCELLED) == stop);
    check("the position is as before", smol_position(state) == FIRST);
    check("the logits are as before", !memcmp(smol_logits(env, state), logits, sizeof logits));
    check("it saves as many bytes", smol_save(state, again, sizeof again) == bytes);
    call(env, kind, 0, SMOL_OK);
    check("the next call is as if nothing had been",
          !memcmp(smol_logits(env, state), expected, sizeof expected));
  }
}

int main(int argc, char **argv) {
  smol_env env = {0};
  struct watch watch = {0};
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  env.workers = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
  env.user = &watch;
  env.poll = poll;
  env.parallel = parallel;
  watch.threads = pool_start(env.workers);
  for (int32_t i = 0; i < FIRST + MORE; i++) tokens[i] = (i * 37 + 11) % SMOL_VOCAB;
  check("init", smol_init(&env, state, sizeof state) == SMOL_OK);
  for (int kind = 0; kind < 3; kind++) try_all(&env, kind);
  pool_stop(watch.threads);
  return 0;
}
