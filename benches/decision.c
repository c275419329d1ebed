/* Nanoseconds of a decision: ckpt_on_train_batch_end with three metrics and nothing due. Prints the medians of rounds
 * for a session by epochs and one by batches. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ckpt.h"

enum { ROUNDS = 21, CALLS = 100000 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double measure(uint64_t save_freq) {
  const ckpt_metric logs[] = {{"loss", 0.25}, {"accuracy", 0.5}, {"val_loss", 0.75}};
  double rounds[ROUNDS];
  ckpt_options *options = NULL;
  ckpt *c = NULL;
  int r;
  uint64_t b;
  if (ckpt_options_new(&options) || ckpt_options_set_save_freq(options, save_freq) ||
      ckpt_options_set_save_best_only(options, true) ||
      ckpt_new("never/{epoch:02d}-{val_loss:.3f}.keras", options, &c)) {
    fprintf(stderr, "%s\n", ckpt_last_error());
    exit(1);
  }
  for (r = 0; r < ROUNDS; r++) {
    double start = now();
    for (b = 0; b < CALLS; b++) ckpt_on_train_batch_end(c, b, logs, 3);
    rounds[r] = (now() - start) / CALLS;
  }
  qsort(rounds, ROUNDS, sizeof rounds[0], ascending);
  ckpt_free(c);
  ckpt_options_free(options);
  return rounds[ROUNDS / 2];
}

int main(void) {
  printf("%.1f %.1f\n", measure(CKPT_SAVE_FREQ_EPOCH), measure((uint64_t)1 << 40));
  return 0;
}
