/* Continues token ids with the likeliest, without any libc: its own start, two system calls of Linux.
   usage: bare COUNT ID... */
#include "smol.h"

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static int32_t tokens[SMOL_CONTEXT];

#if defined __x86_64__
#define WRITE 1
#define EXIT 60
static long call(long number, long a, const void *b, long c) {
  __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return number;
}
__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#elif defined __aarch64__
#define WRITE 64
#define EXIT 93
static long call(long number, long a, const void *b, long c) {
  register long x0 __asm__("x0") = a, x2 __asm__("x2") = c, x8 __asm__("x8") = number;
  register const void *x1 __asm__("x1") = b;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x8) : "memory");
  return x0;
}
__asm__(".globl _start\n_start:\n mov x0, sp\n bl begin\n");
#else
#define WRITE 64
#define EXIT 93
static long call(long number, long a, const void *b, long c) {
  register long a0 __asm__("a0") = a, a2 __asm__("a2") = c, a7 __asm__("a7") = number;
  register const void *a1 __asm__("a1") = b;
  __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
  return a0;
}
__asm__(".globl _start\n_start:\n mv a0, sp\n call begin\n");
#endif

static int32_t number(const char *s) {
  int32_t n = 0;
  while (*s) n = n * 10 + (*s++ - '0');
  return n;
}

static void print(int32_t n) {
  char digits[12];
  int at = sizeof digits;
  digits[--at] = ' ';
  do digits[--at] = (char)('0' + n % 10);
  while (n /= 10);
  call(WRITE, 1, digits + at, (long)sizeof digits - at);
}

static int32_t tell(int32_t count, int32_t prompt) {
  static const smol_env env = {.size = sizeof env, .scratch = scratch, .scratch_bytes = sizeof scratch};
  int32_t status = smol_init(&env, state, sizeof state);
  if (status == SMOL_OK) status = smol_prefill(&env, state, tokens, (size_t)prompt);
  while (status == SMOL_OK && count-- > 0) {
    int32_t token = smol_sample(&env, state, NULL);
    if (token < 0) return token;
    print(token);
    status = smol_decode(&env, state, token);
  }
  return status;
}

void begin(long *stack);
void begin(long *stack) {
  const char *const *words = (const char *const *)(stack + 1);
  int32_t prompt = 0;
  for (long i = 2; i < *stack && prompt < SMOL_CONTEXT; i++) tokens[prompt++] = number(words[i]);
  call(EXIT, tell(number(words[1]), prompt) == SMOL_OK ? 0 : 1, NULL, 0);
}
