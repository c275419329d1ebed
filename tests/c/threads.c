/* Several threads on one session and on one reader; each has its own last error. tests/sanitize.sh runs it under
   ThreadSanitizer too. */
#define _XOPEN_SOURCE 700
#include "check.h"

#include <pthread.h>

enum { threads = 8, epochs = 50, tensors = 64, elements = 257 };

static pthread_barrier_t barrier;
static ckpt *session;
static ckpt_reader *reader;
static ckpt_model *model;
static float weights[tensors][elements];
static int lines; /* log lines come one at a time, so that nothing guards this */

static void count_line(ckpt_log_level level, const char *message, void *user) {
  (void)level, (void)message, (void)user;
  lines++;
}

static void own_errors(size_t me) {
  char path[32], missing[64];
  size_t index;
  snprintf(path, sizeof path, "thread/%zu", me);
  snprintf(missing, sizeof missing, "no tensor 'thread/%zu'", me);
  for (int i = 0; i < 100; i++) {
    CHECK(ckpt_reader_find(reader, path, &index) == CKPT_E_NOT_FOUND);
    pthread_barrier_wait(&barrier);
    CHECK(strstr(ckpt_last_error(), missing));
    pthread_barrier_wait(&barrier);
  }
}

static void read_all(size_t me) {
  for (size_t i = 0; i < tensors; i++) {
    char path[32];
    float got[elements];
    size_t index;
    ckpt_tensor_info info;
    size_t t = (i + me * 7) % tensors;
    snprintf(path, sizeof path, "layers/dense/vars/%zu", t);
    OK(ckpt_reader_find(reader, path, &index));
    OK(ckpt_reader_tensor(reader, index, &info));
    CHECK(strcmp(info.path, path) == 0 && info.rank == 1 && info.shape[0] == elements);
    OK(ckpt_reader_read(reader, index, got, sizeof got));
    CHECK(memcmp(got, weights[t], sizeof got) == 0);
  }
}

/* A model of this thread's own, to load into. */
static ckpt_model *own_model(float (*values)[elements]) {
  static const int64_t shape[] = {elements};
  ckpt_model *own = NULL;
  OK(ckpt_model_new(&own));
  for (size_t t = 0; t < tensors; t++) {
    char path[32];
    snprintf(path, sizeof path, "layers/dense/vars/%zu", t);
    OK(ckpt_model_add(own, path, CKPT_DTYPE_F32, 1, shape, NULL, values[t]));
  }
  return own;
}

static void load_own_model(void) {
  float (*got)[elements] = calloc(tensors, sizeof *got);
  ckpt_model *own = own_model(got);
  OK(ckpt_reader_load(reader, own));
  CHECK(memcmp(got, weights, sizeof weights) == 0);
  OK(ckpt_reader_verify(reader));
  ckpt_model_free(own);
  free(got);
}

/* Each thread's save is of the session's last event, whoever made it; or there is none any more. */
static void train(size_t me) {
  for (size_t i = 0; i < epochs; i++) {
    uint64_t epoch = i * threads + me;
    const ckpt_metric logs[] = {{"val_loss", (double)(epochs * threads - epoch)}};
    ckpt_stats stats;
    double value;
    OK(ckpt_on_train_batch_end(session, i, logs, 1));
    OK(ckpt_on_epoch_end(session, epoch, logs, 1));
    if (ckpt_should_save(session)) {
      ckpt_status status = ckpt_save(session, model);
      CHECK(status == CKPT_OK || status == CKPT_E_STATE);
    }
    ckpt_status found = ckpt_best(session, &value);
    CHECK(found == CKPT_OK || found == CKPT_E_NOT_FOUND);
    found = ckpt_last_stats(session, &stats);
    CHECK(found == CKPT_OK || found == CKPT_E_NOT_FOUND);
    OK(ckpt_wait(session));
  }
}

static void *read_and_load(void *argument) {
  size_t me = *(const size_t *)argument;
  own_errors(me);
  read_all(me);
  load_own_model();
  return NULL;
}

static void *run(void *argument) {
  train(*(const size_t *)argument);
  return NULL;
}

static void in_threads(void *(*function)(void *)) {
  pthread_t ids[threads];
  size_t numbers[threads];
  for (size_t i = 0; i < threads; i++) {
    numbers[i] = i;
    CHECK(pthread_create(&ids[i], NULL, function, &numbers[i]) == 0);
  }
  for (size_t i = 0; i < threads; i++)
    CHECK(pthread_join(ids[i], NULL) == 0);
}

static void count_progress(const char *path, uint64_t done, uint64_t total, void *user) {
  (void)path, (void)user;
  CHECK(done <= total);
  lines++;
}

/* One session, which all threads train with, and its best checkpoint at the end. */
static void train_together(ckpt_async kind, ckpt_backpressure backpressure) {
  ckpt_options *options = NULL;
  ckpt_reader *best = NULL;
  const char *path;
  OK(ckpt_options_new(&options));
  OK(ckpt_options_set_save_weights_only(options, true));
  OK(ckpt_options_set_save_best_only(options, true));
  OK(ckpt_options_set_durability(options, CKPT_DURABILITY_NONE));
  OK(ckpt_options_set_keep_last(options, 3));
  OK(ckpt_options_set_verbose(options, 1));
  OK(ckpt_options_set_log(options, count_line, NULL));
  OK(ckpt_options_set_progress(options, count_progress, NULL));
  OK(ckpt_options_set_async(options, kind));
  OK(ckpt_options_set_backpressure(options, backpressure));
  OK(ckpt_new("threads/{epoch:03d}.weights.h5", options, &session));
  ckpt_options_free(options);
  lines = 0;
  in_threads(run);
  CHECK(lines > 0);
  OK(ckpt_best_path(session, &path));
  OK(ckpt_reader_open(path, &best));
  OK(ckpt_reader_verify(best));
  CHECK(ckpt_reader_len(best) == tensors);
  ckpt_reader_free(best);
  OK(ckpt_load_best(session, model));
  ckpt_free(session);
}

static void is_one_of(const char *call, ckpt_status got, unsigned allowed) {
  if (allowed >> got & 1)
    return;
  fprintf(stderr, "%s is %s\n", call, ckpt_status_name(got));
  check_failed(__FILE__, __LINE__, call, ckpt_last_error());
}

/* The call gives CKPT_OK or one of these statuses. */
#define GIVES(call, statuses) is_one_of(#call, (call), (statuses) | 1u << CKPT_OK)

/* Every function of a session, in an order of this thread's own; a neighbour may have cancelled any save. */
static void *mix(void *argument) {
  enum { calls = 400 };
  const unsigned state = 1u << CKPT_E_STATE, missing = 1u << CKPT_E_NOT_FOUND, cancelled = 1u << CKPT_E_CANCELLED;
  const size_t me = *(const size_t *)argument;
  float (*values)[elements] = calloc(tensors, sizeof *values);
  ckpt_model *own = own_model(values);
  unsigned random = 1 + (unsigned)me;
  for (uint64_t i = 0; i < calls; i++) {
    const ckpt_metric logs[] = {{"val_loss", (double)(calls - i)}};
    const char *path;
    ckpt_stats stats;
    double value;
    random = random * 1103515245u + 12345u;
    switch (random >> 16 & 15) {
    case 0: OK(ckpt_on_epoch_begin(session, i)); break;
    case 1: OK(ckpt_on_train_batch_end(session, i, logs, 1)); break;
    case 2:
    case 3: OK(ckpt_on_epoch_end(session, i, logs, 1)); break;
    case 4: (void)ckpt_should_save(session); break;
    case 5: (void)ckpt_path(session); break;
    case 6:
    case 7:
    case 8: GIVES(ckpt_save(session, model), state | cancelled); break;
    case 9: GIVES(ckpt_wait_buffers(session), cancelled); break;
    case 10: GIVES(ckpt_wait(session), cancelled); break;
    case 11: OK(ckpt_cancel(session)); break;
    case 12: GIVES(ckpt_best(session, &value), missing); break;
    case 13: GIVES(ckpt_best_path(session, &path), missing); break;
    case 14: GIVES(ckpt_load_best(session, own), missing); break;
    default:
      GIVES(ckpt_last_stats(session, &stats), missing);
      OK(ckpt_prepare(session, own));
    }
  }
  for (size_t t = 0; t < tensors; t++)
    CHECK(values[t][0] == 0 || memcmp(values[t], weights[t], sizeof weights[t]) == 0);
  ckpt_model_free(own);
  free(values);
  return NULL;
}

/* Any mix of calls on one handle. */
static void mix_together(ckpt_async kind, ckpt_backpressure backpressure, bool best_only) {
  ckpt_options *options = NULL;
  fresh_directory("threads-mix");
  OK(ckpt_options_new(&options));
  OK(ckpt_options_set_save_weights_only(options, true));
  OK(ckpt_options_set_save_best_only(options, best_only));
  OK(ckpt_options_set_durability(options, CKPT_DURABILITY_NONE));
  OK(ckpt_options_set_keep_last(options, 2));
  OK(ckpt_options_set_recycle(options, true));
  OK(ckpt_options_set_log(options, count_line, NULL));
  OK(ckpt_options_set_progress(options, count_progress, NULL));
  OK(ckpt_options_set_async(options, kind));
  OK(ckpt_options_set_backpressure(options, backpressure));
  OK(ckpt_new("threads-mix/to-come/{epoch:03d}.weights.h5", options, &session));
  ckpt_options_free(options);
  in_threads(mix);
  ckpt_free(session);
}

int main(void) {
  static const int64_t shape[] = {elements};
  fresh_directory("threads");
  OK(ckpt_model_new(&model));
  for (size_t t = 0; t < tensors; t++) {
    char name[32];
    snprintf(name, sizeof name, "layers/dense/vars/%zu", t);
    for (size_t k = 0; k < elements; k++)
      weights[t][k] = (float)(t * elements + k);
    OK(ckpt_model_add(model, name, CKPT_DTYPE_F32, 1, shape, NULL, weights[t]));
  }
  OK(ckpt_model_save(model, "threads/read.weights.h5"));
  OK(ckpt_reader_open("threads/read.weights.h5", &reader));
  CHECK(pthread_barrier_init(&barrier, NULL, threads) == 0);
  in_threads(read_and_load);
  train_together(CKPT_ASYNC_OFF, CKPT_BACKPRESSURE_BLOCK);
  train_together(CKPT_ASYNC_COPY, CKPT_BACKPRESSURE_BLOCK);
  train_together(CKPT_ASYNC_COPY, CKPT_BACKPRESSURE_REPLACE);
  train_together(CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_BLOCK);
  train_together(CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_REPLACE);
  mix_together(CKPT_ASYNC_OFF, CKPT_BACKPRESSURE_BLOCK, false);
  mix_together(CKPT_ASYNC_COPY, CKPT_BACKPRESSURE_BLOCK, true);
  mix_together(CKPT_ASYNC_COPY, CKPT_BACKPRESSURE_REPLACE, false);
  mix_together(CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_BLOCK, false);
  mix_together(CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_REPLACE, true);
  ckpt_reader_free(reader);
  ckpt_model_free(model);
  return 0;
}
