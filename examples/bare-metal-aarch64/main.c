/* A language model on a board without an operating system: a text is continued over a serial line,
   from weights that stay in flash, in RAM of exactly the sizes that the header says. */
#include "smol.h"

#include <stddef.h>
#include <stdint.h>

#define TEXT "ROMEO:\nWhat light is this"
#define TOKENS 48

/* Memory of exact size between canaries. */
#define GUARD 64
#define GUARDED(name, bytes)                       \
  static struct {                                  \
    unsigned char before[GUARD], at[bytes], after[GUARD]; \
  } name __attribute__((aligned(SMOL_ALIGN)))

GUARDED(state, SMOL_STATE_BYTES);
GUARDED(scratch, SMOL_SCRATCH_BYTES);
static int32_t tokens[SMOL_CONTEXT];
static char text[256];

extern unsigned char bss_start[], bss_end[], stack_bottom[], stack_top[];
void power_off(void);
void fault(uint64_t what, uint64_t where, uint64_t address);

/* The serial line: a PL011, which QEMU has ready. */
static void put(char c) {
  volatile uint32_t *const data = (uint32_t *)0x09000000, *const flags = data + 6;
  while (*flags & 1u << 5) {
  }
  *data = (unsigned char)c;
}

static void print(const char *s) {
  while (*s) put(*s++);
}

static void print_number(uint64_t n, unsigned base) {
  char digits[20];
  int count = 0;
  do digits[count++] = "0123456789abcdef"[n % base];
  while (n /= base);
  while (count) put(digits[--count]);
}

static void print_line(const char *what, uint64_t n) {
  print(what);
  put(' ');
  print_number(n, 10);
  put('\n');
}

void fault(uint64_t what, uint64_t where, uint64_t address) {
  print("fault ");
  print_number(what, 16);
  print(" at ");
  print_number(where, 16);
  print(" address ");
  print_number(address, 16);
  put('\n');
  power_off();
}

static void guard(unsigned char *at) {
  for (int i = 0; i < GUARD; i++) at[i] = 0x5a;
}

static uint64_t harmed(const unsigned char *at) {
  uint64_t count = 0;
  for (int i = 0; i < GUARD; i++) count += at[i] != 0x5a;
  return count;
}

static uint64_t stack_used(void) {
  const unsigned char *deepest = stack_bottom;
  while (deepest < stack_top && *deepest == 0xa5) deepest++;
  return (uint64_t)(stack_top - deepest);
}

/* Continues TEXT with the likeliest tokens; prints their numbers, then what they say. */
static int32_t tell(void) {
  static const smol_env env = {.size = sizeof env, .scratch = scratch.at,
                               .scratch_bytes = SMOL_SCRATCH_BYTES};
  int32_t first, end, status = smol_init(&env, state.at, SMOL_STATE_BYTES);
  if (status < 0) return status;
  first = end = smol_encode(TEXT, sizeof TEXT - 1, tokens, SMOL_CONTEXT);
  if (first < 0) return first;
  print("prompt");
  for (int32_t i = 0; i < first; i++) put(' '), print_number((uint64_t)tokens[i], 10);
  print("\ntokens");
  status = smol_prefill(&env, state.at, tokens, (size_t)first);
  while (status == SMOL_OK && end < first + TOKENS && end < SMOL_CONTEXT) {
    int32_t token = smol_sample(&env, state.at, NULL);
    if (token < 0) return token;
    put(' '), print_number((uint64_t)token, 10);
    tokens[end++] = token;
    if (SMOL_IS_EOS(token)) break;
    status = smol_decode(&env, state.at, token);
  }
  put('\n');
  print(TEXT);
  for (int32_t i = first; i < end; i++) {
    int32_t bytes = smol_piece(tokens[i], text, sizeof text);
    for (int32_t n = 0; n < bytes && n < (int32_t)sizeof text; n++) put(text[n]);
  }
  put('\n');
  return status;
}

int main(void) {
  int32_t status;
  guard(state.before), guard(state.after), guard(scratch.before), guard(scratch.after);
  status = tell();
  if (status < 0) print("error: "), print(smol_error(status)), put('\n');
  print_line("canaries harmed", harmed(state.before) + harmed(state.after) +
                                    harmed(scratch.before) + harmed(scratch.after));
  print_line("static bytes", (uint64_t)(bss_end - bss_start));
  print_line("stack bytes used", stack_used());
  print_line("stack bytes", (uint64_t)(stack_top - stack_bottom));
  print("done\n");
  return 0;
}
