/* Saves in the background as C sees them: when buffers may change, what failures say, cancellation, progress, and memory
   of the caller's own for staging. */
#define _XOPEN_SOURCE 700
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

enum { elements = 6 << 20 };

static float *weights;
static ckpt_model *model;

static ckpt_options *options(ckpt_async kind) {
  ckpt_options *o = NULL;
  OK(ckpt_options_new(&o));
  OK(ckpt_options_set_save_weights_only(o, true));
  OK(ckpt_options_set_async(o, kind));
  return o;
}

static ckpt *session(ckpt_options *o) {
  ckpt *s = NULL;
  OK(ckpt_new("background/{epoch}.weights.h5", o, &s));
  ckpt_options_free(o);
  return s;
}

static void fill(float value) {
  for (size_t i = 0; i < elements; i++)
    weights[i] = value;
}

static void epoch(ckpt *s, uint64_t n) {
  const ckpt_metric logs[] = {{"val_loss", 10.0 - (double)n}};
  OK(ckpt_on_epoch_end(s, n, logs, 1));
}

/* A checkpoint whose values are all this one. */
static void holds(const char *path, float value) {
  ckpt_reader *r = NULL;
  float *got = malloc(elements * sizeof *got);
  size_t index;
  OK(ckpt_reader_open(path, &r));
  OK(ckpt_reader_find(r, "w", &index));
  OK(ckpt_reader_read(r, index, got, elements * sizeof *got));
  OK(ckpt_reader_verify(r));
  for (size_t i = 0; i < elements; i++)
    CHECK(got[i] == value);
  ckpt_reader_free(r);
  free(got);
}

static void the_usual_loop(ckpt_async kind) {
  static const char *const paths[] = {"background/1.weights.h5", "background/2.weights.h5",
                                      "background/3.weights.h5"};
  ckpt_stats stats;
  const char *best;
  fresh_directory("background");
  ckpt *s = session(options(kind));
  OK(ckpt_prepare(s, model));
  for (int n = 0; n < 3; n++) {
    OK(ckpt_wait_buffers(s));
    fill((float)n);
    epoch(s, (uint64_t)n);
    CHECK(ckpt_should_save(s) && strcmp(ckpt_path(s), paths[n]) == 0);
    OK(ckpt_save(s, model));
    if (kind == CKPT_ASYNC_COPY)
      fill(-1.0f);
  }
  OK(ckpt_wait(s));
  for (int n = 0; n < 3; n++)
    holds(paths[n], (float)n);
  OK(ckpt_best_path(s, &best));
  CHECK(strcmp(best, paths[2]) == 0);
  OK(ckpt_last_stats(s, &stats));
  CHECK(stats.bytes > elements * sizeof *weights && (stats.copy_secs > 0) == (kind == CKPT_ASYNC_COPY));
  OK(ckpt_load_best(s, model));
  CHECK(weights[0] == 2.0f);
  ckpt_free(s);
}

static void failures(void) {
  fresh_directory("background");
  CHECK(mkdir("background/1.weights.h5", 0777) == 0);
  ckpt *s = session(options(CKPT_ASYNC_BORROW));
  epoch(s, 0);
  OK(ckpt_save(s, model));
  FAILS(ckpt_wait(s), CKPT_E_IO, "the save to 'background/1.weights.h5' failed");
  CHECK(ckpt_last_os_error() == EISDIR);
  OK(ckpt_wait(s));
  OK(ckpt_save(s, model)); /* it is still due */
  while (!ckpt_should_save(s))
    ;
  epoch(s, 1);
  FAILS(ckpt_save(s, model), CKPT_E_IO, "2.weights.h5' is still due");
  CHECK(ckpt_last_os_error() == EISDIR);
  OK(ckpt_save(s, model));
  OK(ckpt_wait(s));
  CHECK(exists("background/2.weights.h5"));
  ckpt_free(s);
}

static uint64_t last_done, last_total;
static int calls;

static void watch(const char *path, uint64_t done, uint64_t total, void *user) {
  CHECK(strcmp(path, "background/1.weights.h5") == 0);
  CHECK(done > last_done && done <= total);
  last_done = done, last_total = total, calls++;
  if (user != NULL) {
    FAILS(ckpt_wait(*(ckpt **)user), CKPT_E_STATE, "progress");
    OK(ckpt_cancel(*(ckpt **)user));
  }
}

static void progress_and_cancellation(ckpt_async kind) {
  ckpt *s = NULL;
  fresh_directory("background");
  ckpt_options *o = options(kind);
  OK(ckpt_options_set_progress(o, watch, NULL));
  s = session(o);
  last_done = 0, calls = 0;
  epoch(s, 0);
  OK(ckpt_save(s, model));
  OK(ckpt_wait(s));
  CHECK(calls > 1 && last_done == last_total && last_total > elements * sizeof *weights);
  ckpt_free(s);

  fresh_directory("background");
  o = options(kind);
  OK(ckpt_options_set_progress(o, watch, &s));
  s = session(o);
  last_done = 0, calls = 0;
  epoch(s, 0);
  ckpt_status status = ckpt_save(s, model);
  if (status == CKPT_OK)
    status = ckpt_wait(s);
  CHECK(status == CKPT_E_CANCELLED && calls == 1);
  OK(ckpt_wait(s));
  ckpt_free(s);
  CHECK(rmdir("background") == 0); /* nothing is left in it */
}

/* Staging memory. */
typedef struct pool {
  pthread_mutex_t lock;
  size_t held, most;
} pool;

static void *give(size_t nbytes, size_t alignment, void *user) {
  pool *p = user;
  void *memory = NULL;
  pthread_mutex_lock(&p->lock);
  p->held += nbytes;
  p->most = p->held > p->most ? p->held : p->most;
  pthread_mutex_unlock(&p->lock);
  return posix_memalign(&memory, alignment, nbytes) == 0 ? memory : NULL;
}

static void take(void *memory, size_t nbytes, void *user) {
  pool *p = user;
  pthread_mutex_lock(&p->lock);
  p->held -= nbytes;
  pthread_mutex_unlock(&p->lock);
  free(memory);
}

static void staging(void) {
  pool p = {.lock = PTHREAD_MUTEX_INITIALIZER};
  fresh_directory("background");
  ckpt_options *o = options(CKPT_ASYNC_COPY);
  OK(ckpt_options_set_staging_allocator(o, give, take, &p));
  OK(ckpt_options_set_staging_limit(o, 8 << 20));
  ckpt *s = session(o);
  fill(4.0f);
  for (uint64_t n = 0; n < 3; n++) {
    epoch(s, n);
    OK(ckpt_save(s, model));
  }
  OK(ckpt_wait(s));
  holds("background/3.weights.h5", 4.0f);
  CHECK(p.most > 0 && p.most <= 8 << 20);
  ckpt_free(s);
  CHECK(p.held == 0);
}

/* Where a save goes is where its path leads when it is made due, whatever becomes of the process' directory. */
static void another_directory(ckpt_async kind) {
  fresh_directory("background");
  ckpt *s = session(options(kind));
  char home[4096];
  CHECK(getcwd(home, sizeof home) != NULL);
  fill(3.0f);
  epoch(s, 0);
  OK(ckpt_save(s, model));
  CHECK(chdir("/") == 0);
  OK(ckpt_wait(s));
  CHECK(chdir(home) == 0);
  holds("background/1.weights.h5", 3.0f);
  ckpt_free(s);
}

int main(void) {
  static const int64_t shape[] = {elements};
  weights = malloc(elements * sizeof *weights);
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "w", CKPT_DTYPE_F32, 1, shape, NULL, weights));
  fill(0.5f);
  the_usual_loop(CKPT_ASYNC_COPY);
  the_usual_loop(CKPT_ASYNC_BORROW);
  failures();
  progress_and_cancellation(CKPT_ASYNC_OFF);
  progress_and_cancellation(CKPT_ASYNC_COPY);
  progress_and_cancellation(CKPT_ASYNC_BORROW);
  another_directory(CKPT_ASYNC_COPY);
  another_directory(CKPT_ASYNC_BORROW);
  staging();
  ckpt_model_free(model);
  free(weights);
  return 0;
}
