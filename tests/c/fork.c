/* A fork while a save is being made in the background: the parent's goes on, the child is told, and has its own. */
#define _XOPEN_SOURCE 700
#include "check.h"

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { elements = 4 << 20, rounds = 20 };

static float *weights;
static ckpt_model *model;
static int begun;

static bool set_begun(bool now) { return __atomic_exchange_n(&begun, now, __ATOMIC_SEQ_CST); }

static bool has_begun(void) { return __atomic_load_n(&begun, __ATOMIC_SEQ_CST); }

static void pause_ms(long ms) {
  const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static void linger(const char *path, uint64_t done, uint64_t total, void *user) {
  (void)path, (void)done, (void)total, (void)user;
  if (!set_begun(true))
    pause_ms(50);
}

static ckpt_options *options(ckpt_async kind) {
  ckpt_options *o = NULL;
  OK(ckpt_options_new(&o));
  OK(ckpt_options_set_save_weights_only(o, true));
  OK(ckpt_options_set_keep_last(o, 1));
  OK(ckpt_options_set_async(o, kind));
  OK(ckpt_options_set_progress(o, linger, NULL));
  return o;
}

static void holds(const char *path) {
  ckpt_reader *r = NULL;
  OK(ckpt_reader_open(path, &r));
  OK(ckpt_reader_verify(r));
  ckpt_reader_free(r);
}

#define REFUSED(call) FAILS(call, CKPT_E_STATE, "forked")

/* Everything but ckpt_free, which does nothing here. */
static void refused(ckpt *s) {
  const ckpt_metric logs[] = {{"val_loss", 1.0}};
  const char *path;
  double best;
  ckpt_stats stats;
  REFUSED(ckpt_on_epoch_begin(s, 0));
  REFUSED(ckpt_on_train_batch_end(s, 0, logs, 1));
  REFUSED(ckpt_on_epoch_end(s, 0, logs, 1));
  CHECK(!ckpt_should_save(s) && ckpt_path(s) == NULL);
  REFUSED(ckpt_save(s, model));
  REFUSED(ckpt_wait_buffers(s));
  REFUSED(ckpt_wait(s));
  REFUSED(ckpt_cancel(s));
  REFUSED(ckpt_best(s, &best));
  REFUSED(ckpt_best_path(s, &path));
  REFUSED(ckpt_load_best(s, model));
  REFUSED(ckpt_prepare(s, model));
  REFUSED(ckpt_last_stats(s, &stats));
}

/* A session of the child's own, from options of the parent's. */
static void own(ckpt_options *o) {
  ckpt *s = NULL;
  OK(ckpt_new("fork/child-{epoch}.weights.h5", o, &s));
  for (uint64_t n = 0; n < 3; n++) {
    OK(ckpt_on_epoch_end(s, n, NULL, 0));
    OK(ckpt_save(s, model));
  }
  OK(ckpt_wait(s));
  holds("fork/child-3.weights.h5");
  CHECK(!exists("fork/child-2.weights.h5"));
  ckpt_free(s);
}

static void child(ckpt *s, ckpt_options *o, int round) {
  alarm(60);
  refused(s);
  if (round % 2 == 0)
    own(o);
  if (round % 4 < 2)
    ckpt_free(s);
  if (round % 3 == 0)
    _exit(0);
  exit(0);
}

static void forks(ckpt_async kind) {
  ckpt_options *o = options(kind);
  ckpt *s = NULL;
  fresh_directory("fork");
  OK(ckpt_new("fork/{epoch}.weights.h5", o, &s));
  for (int round = 0; round < rounds; round++) {
    char path[64];
    int status;
    set_begun(false);
    OK(ckpt_wait_buffers(s));
    OK(ckpt_on_epoch_end(s, (uint64_t)round, NULL, 0));
    OK(ckpt_save(s, model));
    while (!has_begun() && round % 5 != 4)
      pause_ms(1);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
      child(s, o, round);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    OK(ckpt_wait(s));
    snprintf(path, sizeof path, "fork/%d.weights.h5", round + 1);
    holds(path);
  }
  ckpt_free(s);
  ckpt_options_free(o);
}

/* A session that has no thread is as much the child's. */
static void without_a_thread(void) {
  ckpt_options *o = options(CKPT_ASYNC_OFF);
  ckpt *s = NULL;
  int status;
  fresh_directory("fork");
  OK(ckpt_new("fork/{epoch}.weights.h5", o, &s));
  OK(ckpt_on_epoch_end(s, 0, NULL, 0));
  OK(ckpt_save(s, model));
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    OK(ckpt_on_epoch_end(s, 1, NULL, 0));
    OK(ckpt_save(s, model));
    ckpt_free(s);
    exit(0);
  }
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  holds("fork/2.weights.h5");
  ckpt_free(s);
  ckpt_options_free(o);
}

int main(void) {
  static const int64_t shape[] = {elements};
  alarm(120);
  weights = calloc(elements, sizeof *weights);
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "w", CKPT_DTYPE_F32, 1, shape, NULL, weights));
  without_a_thread();
  forks(CKPT_ASYNC_BORROW);
  forks(CKPT_ASYNC_COPY);
  ckpt_model_free(model);
  free(weights);
  return 0;
}
