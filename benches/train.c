/* A training that saves beside it: a loop on all cores that multiplies matrices, and what it loses to saves. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "speed.h"

enum { SIDE = 64, MAX_THREADS = 256 };

static struct trainer {
  _Alignas(64) atomic_ulong steps;
  float a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];
} *trainers;
static int count;
static bool running;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static atomic_bool stopped = true;

static void step(struct trainer *t) {
  for (int i = 0; i < SIDE; i++)
    for (int k = 0; k < SIDE; k++)
      for (int j = 0; j < SIDE; j++) t->c[i][j] += t->a[i][k] * t->b[k][j];
  __asm__ volatile("" : : "r"(t->c) : "memory");
}

static void *train(void *arg) {
  struct trainer *t = arg;
  for (;;) {
    if (atomic_load_explicit(&stopped, memory_order_relaxed)) {
      pthread_mutex_lock(&lock);
      while (!running) pthread_cond_wait(&changed, &lock);
      pthread_mutex_unlock(&lock);
    }
    step(t);
    atomic_fetch_add_explicit(&t->steps, 1, memory_order_relaxed);
  }
  return NULL;
}

static void start_training(void) {
  if (!trainers) {
    cpu_set_t cpus;
    pthread_t thread;
    sched_getaffinity(0, sizeof cpus, &cpus);
    count = CPU_COUNT(&cpus) < MAX_THREADS ? CPU_COUNT(&cpus) : MAX_THREADS;
    if (posix_memalign((void **)&trainers, 64, (size_t)count * sizeof *trainers)) fail("posix_memalign");
    memset((void *)trainers, 0, (size_t)count * sizeof *trainers);
    for (int i = 0; i < count; i++)
      if (pthread_create(&thread, NULL, train, &trainers[i])) fail("pthread_create");
  }
  pthread_mutex_lock(&lock);
  running = true;
  atomic_store(&stopped, false);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

static void stop_training(void) {
  pthread_mutex_lock(&lock);
  running = false;
  atomic_store(&stopped, true);
  pthread_mutex_unlock(&lock);
}

static unsigned long steps(void) {
  unsigned long sum = 0;
  for (int i = 0; i < count; i++) sum += atomic_load(&trainers[i].steps);
  return sum;
}

/* Lets the training run while `wait` does its work; adds what it did to `done` and `secs`. */
static void beside(void (*wait)(void *), void *arg, unsigned long *done, double *secs) {
  start_training();
  unsigned long before = steps();
  double start = now();
  wait(arg);
  *secs += now() - start;
  *done += steps() - before;
  stop_training();
}

static void wait_a_while(void *arg) {
  const struct timespec t = {0, (long)(*(const double *)arg * 1e9)}; /* less than a second */
  nanosleep(&t, NULL);
}

static void wait_for_ours(void *arg) { check(ckpt_wait(arg), "ckpt_wait"); }

static void write_plainly(void *arg) {
  int fd = open(arg, O_WRONLY | O_CREAT | O_EXCL, 0666);
  if (fd < 0) fail(arg);
  write_tensors(fd);
  if (fsync(fd)) fail("fsync");
  close(fd);
}

/* Steps a second without any save. */
static double speed_alone(void) {
  double secs = 0, wanted = 0.25;
  unsigned long done = 0;
  beside(wait_a_while, &wanted, &done, &secs);
  return (double)done / secs;
}

/* Seconds that the training has lost to saves: those beside them, less those that its steps take alone. The speed alone
 * is measured before and after, since a machine's own varies. */
static double lost(double before, unsigned long done, double secs) {
  double alone = (before + speed_alone()) / 2;
  return secs - (double)done / alone;
}

/* train_ours SESSION SAVES: beside saves of this session in the background, one after the other. The training stops
 * while ckpt_save has the caller; that is the stall, and not counted as lost. */
static void run_beside_ours(int n, char **args) {
  ckpt *c = session_named(args[0]);
  unsigned long done = 0;
  double secs = 0, stall = 0, before = speed_alone();
  int saves = atoi(args[1]);
  (void)n;
  for (int i = 0; i < saves; i++) {
    epoch_ends(c);
    double start = now();
    check(ckpt_save(c, ours()), "ckpt_save");
    stall += now() - start;
    beside(wait_for_ours, c, &done, &secs);
  }
  printf("{\"secs\": %.9f, \"lost\": %.9f, \"stall\": %.9f}\n", secs / saves, lost(before, done, secs) / saves,
         stall / saves);
}

/* train_plain NAME: beside a thread that writes the model with pwrite and fsync. */
static void run_beside_plain(int n, char **args) {
  unsigned long done = 0;
  double secs = 0, before = speed_alone();
  (void)n;
  beside(write_plainly, args[0], &done, &secs);
  printf("{\"secs\": %.9f, \"lost\": %.9f}\n", secs, lost(before, done, secs));
}

const command train_commands[] = {
    {"train_ours", run_beside_ours}, {"train_plain", run_beside_plain}, {NULL, NULL}};
