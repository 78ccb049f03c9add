/* Continues a text that is given as token ids, always with the likeliest token.
   usage: continue COUNT ID...  Prints the new ids on one line, and below it the text they stand for. */
#include "smol.h"

#include <stdio.h>
#include <stdlib.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static int32_t tokens[SMOL_CONTEXT];

int main(int argc, char **argv) {
  smol_env env = {0};
  int first = 0, end = 0, most, status;
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  for (int i = 2; i < argc && end < SMOL_CONTEXT; i++) tokens[end++] = atoi(argv[i]);
  first = end;
  most = first + (argc > 1 ? atoi(argv[1]) : 0);
  if (most > SMOL_CONTEXT) most = SMOL_CONTEXT;

  status = smol_init(&env, state, sizeof state);
  if (status == SMOL_OK) status = smol_prefill(&env, state, tokens, (size_t)first);
  while (status == SMOL_OK && end < most) {
    status = tokens[end] = smol_sample(&env, state, NULL);
    if (status < 0) break;
    printf("%d ", status);
    end++;
    if (SMOL_IS_EOS(status)) break;
    status = smol_decode(&env, state, status);
  }
  if (status < 0) return fprintf(stderr, "continue: %s\n", smol_error(status)), 1;
  putchar('\n');
  for (int i = first; i < end; i++) {
    char piece[64];
    size_t bytes = (size_t)smol_piece(tokens[i], piece, sizeof piece);
    fwrite(piece, 1, bytes < sizeof piece ? bytes : sizeof piece, stdout);
  }
  putchar('\n');
  return 0;
}
