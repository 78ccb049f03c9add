/* What init says on a CPU that has less than the library was made for. */
#include "smol.h"

#include <stdio.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));

int main(void) {
  smol_env env = {0};
  int32_t status;
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  status = smol_init(&env, state, sizeof state);
  printf("%d %s\n", (int)status, smol_error(status));
  return 0;
}
