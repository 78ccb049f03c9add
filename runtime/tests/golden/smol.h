/* smol.h: written by ingot 0.1.0; do not edit.
   target:    aarch64-unknown-none
   cpu:       cortex-a76 +dotprod +neon
   identity:  0123456789abcdef
   model:     SmolLM2-135M
   licence:   Apache-2.0 * / int x; / *?see \
*/
#ifndef SMOL_H
#define SMOL_H

#include <stddef.h>
#include <stdint.h>

#define SMOL_ABI_VERSION 1               /* of this interface */
#define SMOL_VOCAB 49152                 /* tokens are 0 .. VOCAB - 1 */
#define SMOL_CONTEXT 2048                /* tokens a conversation may hold */
#define SMOL_BOS 1                       /* begins a text; -1: none */
#define SMOL_ADD_BOS 0                   /* 1: a text usually begins with BOS */
#define SMOL_EOS 2                       /* ends a text; -1: none */
#define SMOL_IS_EOS(token) ((token) == 2 || (token) == 0) /* whether a token ends a text; may read it twice */
#define SMOL_ALIGN 64                    /* of weights, state and scratch, in bytes */
#define SMOL_WEIGHTS_BYTES 75497472u     /* read only */
#define SMOL_WEIGHTS_EXTERNAL 0          /* 1: env.weights */
#define SMOL_STATE_BYTES 47390784u       /* one conversation */
#define SMOL_SCRATCH_BYTES 1048576u      /* one call in flight, all its workers */
#define SMOL_STACK_BYTES 4096u           /* of each thread, the caller's functions not counted */
#define SMOL_MAX_WORKERS 8               /* most that env.workers may ask for */
#define SMOL_PREFILL_CHUNK 32            /* tokens that prefill takes at a time */
#define SMOL_HAS_ENCODE 1                /* 0: encode returns E_TOKENIZER */
#define SMOL_HAS_CHAT 1                  /* 0: chat returns E_TOKENIZER or E_TEMPLATE */

#ifdef __cplusplus
extern "C" {
#endif

/* Statuses: 0 or positive is good, negative an error. smol_error gives the text. */
enum smol_status {
  SMOL_OK = 0,                 /* ok */
  SMOL_E_ARG = -1,             /* an argument is null or out of its range */
  SMOL_E_ALIGN = -2,           /* memory is not aligned to 64 bytes */
  SMOL_E_SIZE = -3,            /* memory is too small */
  SMOL_E_ENV = -4,             /* the environment is null, or its size field is too small */
  SMOL_E_SCRATCH = -5,         /* scratch is null, misaligned or too small */
  SMOL_E_STATE = -6,           /* the state is null, not initialised, or has no logits */
  SMOL_E_TOKEN = -7,           /* a token is not in the vocabulary */
  SMOL_E_CONTEXT = -8,         /* the context is full */
  SMOL_E_CANCELLED = -9,       /* cancelled by poll */
  SMOL_E_WEIGHTS = -10,        /* the weights are missing, misaligned or of another model */
  SMOL_E_MODEL = -11,          /* saved by another model */
  SMOL_E_BLOB = -12,           /* the saved conversation is damaged or cut short */
  SMOL_E_TOKENIZER = -13,      /* built without a tokenizer */
  SMOL_E_TEMPLATE = -14,       /* the chat template has no such turn, or there is none */
  SMOL_E_DAMAGED = -15,        /* the weights are not as they were written */
  SMOL_E_CPU = -16             /* the CPU or the system lacks what the code was made for */
};

/* What the caller provides. Set size, zero what is not used. */
typedef struct smol_env {
  uint32_t size;        /* sizeof(smol_env) */
  uint32_t workers;     /* of one call; above SMOL_MAX_WORKERS no more; 0 or 1: the caller alone */
  const void *weights;  /* NULL: those in the library */
  void *scratch;        /* SMOL_SCRATCH_BYTES, aligned to SMOL_ALIGN, used while a call runs */
  size_t scratch_bytes; /* size of scratch, in bytes */
  void *user;           /* handed to the two functions below */
  /* Runs task(arg, 0) .. task(arg, n - 1) at the same time, each on a thread of its own with
     SMOL_STACK_BYTES of stack, and returns when all have. Tasks wait for each other: running them
     one after the other never ends. NULL: one worker. */
  void (*parallel)(void *user, uint32_t n, void (*task)(void *arg, uint32_t index), void *arg);
  /* Called now and then with the steps done and the steps in all; nonzero cancels the call, which
     leaves the state as it was. NULL: never asked. */
  int (*poll)(void *user, uint32_t done, uint32_t total);
} smol_env;

/* How a token is chosen. Set size, zero what is not used; all zero is greedy. */
typedef struct smol_sampling {
  uint32_t size;           /* sizeof(smol_sampling) */
  uint32_t top_k;          /* keep the k best; 0: all */
  uint64_t seed;           /* of the generator; another seed than before restarts it */
  float temperature;       /* 0: greedy, the best token */
  float top_p;             /* keep the fewest best whose probabilities reach it; 0 or 1: all */
  float min_p;             /* drop what is less likely than this share of the best; 0: nothing */
  float repeat_penalty;    /* logit l of a token seen: l > 0 ? l / r : l * r; 0 or 1: off */
  float frequency_penalty; /* subtracted from a logit for each time the token was seen; 0: off */
  float presence_penalty;  /* subtracted from the logit of a token seen; 0: off */
  uint32_t penalty_window; /* tokens looked back on; 0: the whole conversation */
} smol_sampling;

/* A compiler that lays these structures out differently stops here. */
typedef char smol_env_has_56_bytes[sizeof(smol_env) == 56 ? 1 : -1];
typedef char smol_sampling_has_48_bytes[sizeof(smol_sampling) == 48 ? 1 : -1];

/* Unless it says otherwise, a function returns SMOL_OK or one of the errors above, and a call that
   fails leaves the state as it was. States are independent: calls may run at the same time if
   neither state nor scratch is shared. A state holds no pointers and may be copied as bytes; smol_save
   and smol_load take a conversation to another machine, of another architecture if neither weights
   nor cache are integers. A state is SMOL_STATE_BYTES long and aligned to SMOL_ALIGN, always. */

/* Starts an empty conversation in memory of state_bytes >= SMOL_STATE_BYTES.
   Errors: CPU, ENV, SCRATCH, WEIGHTS, STATE, ALIGN, SIZE. */
int32_t smol_init(const smol_env *env, void *state, size_t state_bytes);

/* Reads all weights once and compares them with the hash that they were written with, which takes as
   long as memory takes. Every other function looks at the hash in their header alone, and so finds
   weights of another checkpoint, but not a bit that has changed.
   Errors: ENV, SCRATCH, WEIGHTS, DAMAGED. */
int32_t smol_verify(const smol_env *env);

/* Feeds count > 0 tokens; the logits are those after the last one.
   Errors: ENV, SCRATCH, WEIGHTS, ALIGN, STATE, ARG, CONTEXT, TOKEN, CANCELLED. */
int32_t smol_prefill(const smol_env *env, void *state, const int32_t *tokens, size_t count);

/* Feeds one token. Errors: those of smol_prefill. */
int32_t smol_decode(const smol_env *env, void *state, int32_t token);

/* The SMOL_VOCAB logits after the last token fed, inside the state; NULL if there are none. */
const float *smol_logits(const smol_env *env, const void *state);

/* Feeds count > 0 tokens and writes logprobs[i], the natural logarithm of the probability of
   tokens[i + 1] after all before it: count - 1 of them. Errors: those of smol_prefill. */
int32_t smol_score(const smol_env *env, void *state, const int32_t *tokens, size_t count,
                   float *logprobs);

/* Chooses a token from the logits of the state, without feeding it; sampling NULL is greedy.
   In this order: penalties, top_k, top_p, min_p (both measured at temperature 1), temperature,
   draw. Of equal logits the lowest token comes first. Each call takes one draw of SplitMix64
   (Steele, Lea, Flood 2014), greedy or not: draw n is mix(seed + n * 0x9E3779B97F4A7C15), n from 1,
   and its upper 53 bits are a number in [0, 1). The same logits, options and seed give the same
   token on every machine. Returns a token >= 0.
   Errors: ENV, ALIGN, STATE, SCRATCH, ARG. */
int32_t smol_sample(const smol_env *env, void *state, const smol_sampling *sampling);

/* The number of tokens in the state; 0 if it is not initialised. */
uint32_t smol_position(const void *state);

/* Forgets the tokens from position on. Unless nothing is forgotten there are no logits until the
   next token is fed. Errors: ALIGN, STATE; ARG if there are fewer tokens. */
int32_t smol_truncate(void *state, uint32_t position);

/* Writes the conversation to out and returns the bytes written; cap 0: returns the bytes needed and
   writes nothing. out needs no alignment. Errors: ALIGN, STATE, ARG if out is NULL, SIZE if cap is
   too small. */
int64_t smol_save(const void *state, void *out, size_t cap);

/* Restores a saved conversation into a state, which need not be initialised. bytes may count more
   than was saved. Errors: ALIGN, BLOB, CPU; ARG if a pointer is NULL; MODEL if it was saved by another
   model, by a build of this one with another context or cache, or with integers on another
   architecture. */
int32_t smol_load(void *state, const void *blob, size_t bytes);

/* Turns a text into tokens and returns how many there are; BOS is not put before them. They are
   those of the checkpoint's tokenizer, and what the text spells of special tokens becomes them. The
   text need not be valid UTF-8: each part of it that is not (the longest that could begin a
   character, or one byte) counts as U+FFFD. Time is linear in bytes, which are 2^29 at most.
   cap 0: returns a cap that always suffices, near bytes + bytes / 4 but for NFC, and writes nothing. Less does
   where there are fewer tokens; a text that has to change first (what is not UTF-8, a space in
   front) needs room for a copy of it behind the tokens, and the way to the tokens of a word may be
   a few longer than they are. If the tokenizer takes Unicode's NFC (Qwen2 and 3), a text that is not
   in it needs more: two copies as long as it is decomposed. Errors: TOKENIZER; ARG if a pointer is
   NULL that is needed, or bytes are too many; SIZE if cap is too small, and then tokens hold nothing
   of use. */
int32_t smol_encode(const char *text, size_t bytes, int32_t *tokens, size_t cap);

/* Writes the bytes of a token, at most cap of them, without a final zero, and returns how many it
   has; a control token has none. A character may be spread over several tokens. out may be NULL if
   cap is 0. Errors: TOKEN, TOKENIZER, ARG if out is NULL. */
int32_t smol_piece(int32_t token, char *out, size_t cap);

/* Who speaks. */
enum smol_role { SMOL_START = 0, SMOL_SYSTEM = 1, SMOL_USER = 2, SMOL_ASSISTANT = 3 };

/* Turns one turn of a conversation into tokens, as the checkpoint's chat template writes it: role
   says text after a turn of `after`, or after nothing at all (SMOL_START). The end of the turn
   before is part of it, so what the model answers is fed without the token that ended it.
   SMOL_ASSISTANT with no text opens the answer. Special tokens that text spells are text.

     n = smol_chat(SMOL_START, SMOL_USER, text, bytes, tokens, cap);
     n += smol_chat(SMOL_USER, SMOL_ASSISTANT, NULL, 0, tokens + n, cap - n);
     smol_prefill(env, state, tokens, n); then sample and decode until SMOL_IS_EOS;
     n = smol_chat(SMOL_ASSISTANT, SMOL_USER, next_text, next_bytes, tokens, cap); and so on

   There is a turn of the system or the user after SMOL_START, of the user after the system and the
   assistant, of the assistant after the user, each if the template has it. text, cap and what is
   returned are as in smol_encode. Errors: those of smol_encode; ARG if there is no such role;
   TEMPLATE if the template has no such turn. */
int32_t smol_chat(uint32_t after, uint32_t role, const char *text, size_t bytes, int32_t *tokens,
                  size_t cap);

/* What a status means, in English; never NULL. */
const char *smol_error(int32_t status);

#ifdef __cplusplus
}
#endif

#endif /* SMOL_H */
