/* Turns each text in a file (a 32-bit length, then so many bytes) into tokens, and prints them.
   usage: encode FILE */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int32_t codec_encode(const char *text, size_t bytes, int32_t *tokens, size_t cap);

int main(int argc, char **argv) {
  FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
  uint32_t bytes;
  if (!file) return 2;
  while (fread(&bytes, sizeof bytes, 1, file) == 1) {
    char *text = malloc(bytes + 1);
    int32_t cap = codec_encode(text, 0, NULL, 0), n, *tokens;
    if (!text || fread(text, 1, bytes, file) != bytes) return 3;
    cap = codec_encode(text, bytes, NULL, 0);
    tokens = malloc((size_t)cap * sizeof *tokens);
    n = codec_encode(text, bytes, tokens, (size_t)cap);
    for (int32_t i = 0; i < n; i++) printf("%d ", (int)tokens[i]);
    printf("= %d\n", (int)n);
    free(tokens);
    free(text);
  }
  return fclose(file);
}
