/* Talks with a model whose checkpoint has a chat template.
   usage: chat [--seed N] [--temp T] [--system TEXT] [--resume FILE]
   Each line is a message; /save FILE, /load FILE, /new and /quit are commands. Ctrl-C stops an
   answer, and the program where there is none. */
#include "smol.h"
#include "utf8.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char state[SMOL_STATE_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char scratch[SMOL_SCRATCH_BYTES] __attribute__((aligned(SMOL_ALIGN)));
static unsigned char saved[SMOL_STATE_BYTES + 4096];
static int32_t tokens[SMOL_CONTEXT + 64];
static char line[16384];

static smol_env env;
static smol_sampling how;
static const char *system_text;
static uint32_t after; /* who spoke last */
static volatile sig_atomic_t stopped;

static void stop(int signal) {
  (void)signal;
  stopped = 1;
}

/* The library asks between layers whether to go on. */
static int poll_stopped(void *user, uint32_t done, uint32_t total) {
  (void)user, (void)done, (void)total;
  return stopped;
}

static int complain(int64_t status) {
  fprintf(stderr, "chat: %s\n", smol_error((int32_t)status));
  return -1;
}

/* Tokens of one turn behind the n that are there; negative if there is no room. */
static int32_t turn(uint32_t before, uint32_t role, const char *text, int32_t n) {
  const int32_t cap = (int32_t)(sizeof tokens / sizeof *tokens);
  int32_t more;
  if (n < 0 || n >= cap) return n < 0 ? n : SMOL_E_SIZE;
  more = smol_chat(before, role, text, strlen(text), tokens + n, (size_t)(cap - n));
  return more < 0 ? more : n + more;
}

static int start(void) {
  int32_t status = smol_init(&env, state, sizeof state);
  after = SMOL_START;
  if (status == SMOL_OK && system_text) {
    int32_t n = turn(SMOL_START, SMOL_SYSTEM, system_text, 0);
    status = n < 0 ? n : smol_prefill(&env, state, tokens, (size_t)n);
    after = SMOL_SYSTEM;
  }
  return status < 0 ? complain(status) : 0;
}

/* A saved conversation is who spoke last, then what the library saves. */
static int save(const char *path) {
  FILE *file = fopen(path, "wb");
  int64_t bytes = smol_save(state, saved, sizeof saved);
  int good = file && bytes > 0 && fwrite(&after, sizeof after, 1, file) == 1 &&
             fwrite(saved, 1, (size_t)bytes, file) == (size_t)bytes;
  if (file && fclose(file) != 0) good = 0;
  if (bytes < 0) return complain(bytes);
  if (!good) perror(path);
  return good ? 0 : -1;
}

static int load(const char *path) {
  FILE *file = fopen(path, "rb");
  uint32_t who = SMOL_START;
  size_t bytes = 0;
  int32_t status;
  if (!file || fread(&who, sizeof who, 1, file) != 1) {
    perror(path);
    if (file) fclose(file);
    return -1;
  }
  bytes = fread(saved, 1, sizeof saved, file);
  fclose(file);
  status = smol_load(state, saved, bytes);
  if (status < 0) return complain(status);
  after = who;
  return 0;
}

/* Shows what makes whole characters, and keeps the rest for later. */
static size_t show(char *text, size_t bytes) {
  size_t whole = utf8_whole(text, bytes);
  fwrite(text, 1, whole, stdout);
  fflush(stdout);
  memmove(text, text + whole, bytes - whole);
  return bytes - whole;
}

static int answer(const char *message) {
  char text[1024];
  size_t bytes = 0;
  uint32_t position = smol_position(state);
  int32_t n = turn(after, SMOL_USER, message, 0), token = SMOL_OK, status;
  n = turn(SMOL_USER, SMOL_ASSISTANT, "", n);
  if (n < 0) return complain(n);
  stopped = 0;
  status = smol_prefill(&env, state, tokens, (size_t)n);
  while (status == SMOL_OK && !stopped) {
    token = smol_sample(&env, state, &how);
    if (token < 0 || SMOL_IS_EOS(token)) break;
    bytes += (size_t)smol_piece(token, text + bytes, sizeof text - bytes);
    if (bytes > sizeof text) bytes = sizeof text;
    bytes = show(text, bytes);
    status = smol_decode(&env, state, token);
  }
  fwrite(text, 1, bytes, stdout);
  putchar('\n');
  if (status == SMOL_E_CANCELLED) status = SMOL_OK;
  if (token < 0) status = token;
  /* A message that was not fed to its end was not said; an answer may end anywhere. */
  if (smol_position(state) > position) after = SMOL_ASSISTANT;
  if (status == SMOL_E_CONTEXT) fputs("chat: no more room; /new begins another conversation\n", stderr);
  else if (status < 0) return complain(status);
  return 0;
}

/* 1 to end. */
static int obey(char *text) {
  char *argument = strchr(text, ' ');
  if (argument) *argument++ = 0;
  if (strcmp(text, "/quit") == 0) return 1;
  if (strcmp(text, "/new") == 0) start();
  else if (strcmp(text, "/save") == 0 && argument) save(argument);
  else if (strcmp(text, "/load") == 0 && argument) load(argument);
  else fputs("chat: /save FILE, /load FILE, /new or /quit\n", stderr);
  return 0;
}

static int options(int argc, char **argv, const char **resume) {
  for (int i = 1; i < argc; i += 2) {
    const char *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (value && strcmp(argv[i], "--seed") == 0) how.seed = strtoull(value, NULL, 10);
    else if (value && strcmp(argv[i], "--temp") == 0) how.temperature = strtof(value, NULL);
    else if (value && strcmp(argv[i], "--system") == 0) system_text = value;
    else if (value && strcmp(argv[i], "--resume") == 0) *resume = value;
    else return -1;
  }
  return 0;
}

int main(int argc, char **argv) {
  const char *resume = NULL;
  how.size = sizeof how;
  how.seed = 1;
  if (options(argc, argv, &resume) != 0) {
    fputs("usage: chat [--seed N] [--temp T] [--system TEXT] [--resume FILE]\n", stderr);
    return 2;
  }
  env.size = sizeof env;
  env.scratch = scratch;
  env.scratch_bytes = sizeof scratch;
  env.poll = poll_stopped;
  if (start() != 0 || (resume && load(resume) != 0)) return 1;
  for (;;) {
    size_t length;
    fputs("> ", stdout);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) break;
    length = strcspn(line, "\r\n");
    line[length] = 0;
    if (length == 0) continue;
    if (line[0] == '/') {
      if (obey(line)) break;
    } else {
      signal(SIGINT, stop);
      answer(line);
      signal(SIGINT, SIG_DFL);
    }
  }
  putchar('\n');
  return 0;
}
