#define _GNU_SOURCE
#include "worker.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WORDS = 1 << 17, PAGE = 4096, KINDS_OF_MEMORY = 4 };

tensors model;

double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double cpu_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void fail(const char *what) {
  printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno));
  fflush(stdout);
  exit(1);
}

void path_of(size_t tensor, char out[64]) { snprintf(out, 64, "layers/dense_%zu/vars/%zu", tensor / 3, tensor % 3); }

/* Bytes that nothing could compress. */
static void fill(unsigned char *data, size_t bytes, uint64_t seed) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    memcpy(data + i, &x, 8);
  }
}

static void make_model(size_t count, size_t bytes_each) {
  /* As in a program that has not freed anything yet: large blocks come from mmap, 16 bytes behind a page. */
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  model = (tensors){count, bytes_each, malloc((count + 1) * sizeof *model.data)};
  for (size_t i = 0; i < count; i++) {
    if (!(model.data[i] = malloc(bytes_each))) fail("malloc");
    fill(model.data[i], bytes_each, i + 1);
  }
}

tensors *memory_behind(size_t start) {
  static struct { size_t start; tensors memory; } made[KINDS_OF_MEMORY];
  int k = 0;
  while (k < KINDS_OF_MEMORY - 1 && made[k].memory.data && made[k].start != start) k++;
  if (!made[k].memory.data) {
    made[k].start = start;
    made[k].memory = (tensors){model.count, model.bytes_each, malloc((model.count + 1) * sizeof *model.data)};
    for (size_t i = 0; i < model.count; i++) {
      unsigned char *block = mmap(NULL, start + model.bytes_each, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
      if (block == MAP_FAILED) fail("mmap");
      made[k].memory.data[i] = block + start;
    }
  }
  return &made[k].memory;
}

int work(int argc, char **argv, const command *const *tables) {
  static char *words[MAX_WORDS];
  char *line = NULL;
  size_t room = 0;
  if (argc != 4) {
    fprintf(stderr, "usage: %s DIRECTORY TENSORS BYTES_EACH\n", argv[0]);
    return 2;
  }
  if (chdir(argv[1])) fail(argv[1]);
  make_model(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
  while (getline(&line, &room, stdin) > 0) {
    int n = 0;
    for (char *word = strtok(line, " \n"); word && n < MAX_WORDS; word = strtok(NULL, " \n")) words[n++] = word;
    const command *found = NULL;
    for (const command *const *table = tables; n && *table && !found; table++)
      for (const command *c = *table; c->name && !found; c++)
        if (!strcmp(c->name, words[0])) found = c;
    if (!found) {
      errno = EINVAL;
      fail(n ? words[0] : "no command");
    }
    found->run(n - 1, words + 1);
    fflush(stdout);
  }
  free(line);
  return 0;
}
