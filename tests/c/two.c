/* Two models in one program: every name of a library starts with its own. Prints the greedy tokens of
   each, taken in turns.
   usage: two COUNT ID... */
#include "first.h"
#include "second.h"

#include <stdio.h>
#include <stdlib.h>

#define MOST 64

static unsigned char one[FIRST_STATE_BYTES] __attribute__((aligned(FIRST_ALIGN)));
static unsigned char two[SECOND_STATE_BYTES] __attribute__((aligned(SECOND_ALIGN)));
static unsigned char first_scratch[FIRST_SCRATCH_BYTES] __attribute__((aligned(FIRST_ALIGN)));
static unsigned char second_scratch[SECOND_SCRATCH_BYTES] __attribute__((aligned(SECOND_ALIGN)));

int main(int argc, char **argv) {
  first_env a = {0};
  second_env b = {0};
  int32_t prompt[MOST], from_one[MOST], from_two[MOST];
  int count = atoi(argv[1]), length = 0;
  a.size = sizeof a;
  a.scratch = first_scratch;
  a.scratch_bytes = sizeof first_scratch;
  b.size = sizeof b;
  b.scratch = second_scratch;
  b.scratch_bytes = sizeof second_scratch;
  for (int i = 2; i < argc && length < MOST; i++) prompt[length++] = atoi(argv[i]);

  if (first_init(&a, one, sizeof one) || second_init(&b, two, sizeof two)) return 1;
  if (first_prefill(&a, one, prompt, (size_t)length)) return 1;
  if (second_prefill(&b, two, prompt, (size_t)length)) return 1;
  for (int i = 0; i < count; i++) {
    from_one[i] = first_sample(&a, one, NULL);
    from_two[i] = second_sample(&b, two, NULL);
    if (first_decode(&a, one, from_one[i]) || second_decode(&b, two, from_two[i])) return 1;
  }
  for (int i = 0; i < count; i++) printf("%d ", (int)from_one[i]);
  putchar('\n');
  for (int i = 0; i < count; i++) printf("%d ", (int)from_two[i]);
  putchar('\n');
  return 0;
}
