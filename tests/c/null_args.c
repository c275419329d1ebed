/* NULL, text that is not UTF-8, numbers that an enum does not have, calls in the wrong order: for every argument of
   every function the right status and a message that names the argument; what comes out is untouched. */
#include "check.h"

#include <math.h>

#define INVALID CKPT_E_INVALID_ARGUMENT

static const char not_utf8[] = "a\xff/b.weights.h5";
static char sentinel;

#define UNTOUCHED(pointer) CHECK((const void *)(pointer) == (const void *)&sentinel)
#define SENTINEL ((void *)&sentinel)

static void statuses(void) {
  static const char *const names[] = {"CKPT_OK",          "CKPT_E_INVALID_ARGUMENT", "CKPT_E_TEMPLATE",
                                      "CKPT_E_IO",        "CKPT_E_NO_SPACE",         "CKPT_E_FORMAT",
                                      "CKPT_E_NOT_FOUND", "CKPT_E_MISMATCH",         "CKPT_E_STATE",
                                      "CKPT_E_UNSUPPORTED", "CKPT_E_CANCELLED",      "CKPT_E_INTERNAL"};
  CHECK(strcmp(ckpt_last_error(), "") == 0);
  CHECK(ckpt_last_os_error() == 0);
  for (int i = 0; i < 12; i++)
    CHECK(strcmp(ckpt_status_name((ckpt_status)i), names[i]) == 0);
  CHECK(strcmp(ckpt_status_name((ckpt_status)12), "unknown status") == 0);
  CHECK(strcmp(ckpt_status_name((ckpt_status)-1), "unknown status") == 0);
  CHECK(ckpt_version() == CKPT_VERSION);
}

static void free_functions(void) {
  ckpt_options_free(NULL);
  ckpt_model_free(NULL);
  ckpt_reader_free(NULL);
  ckpt_free(NULL);
  ckpt_keras_free(NULL);
}

static void log_nothing(ckpt_log_level level, const char *message, void *user) {
  (void)level, (void)message, (void)user;
}

static void hear_nothing(const char *path, uint64_t done, uint64_t total, void *user) {
  (void)path, (void)done, (void)total, (void)user;
}

static void *give_nothing(size_t nbytes, size_t alignment, void *user) {
  (void)nbytes, (void)alignment, (void)user;
  return NULL;
}

static void take_nothing(void *memory, size_t nbytes, void *user) { (void)memory, (void)nbytes, (void)user; }

static void options(void) {
  ckpt_options *o = NULL;
  FAILS(ckpt_options_new(NULL), INVALID, "out is NULL");
  OK(ckpt_options_new(&o));

  FAILS(ckpt_options_set_monitor(NULL, "loss"), INVALID, "options is NULL");
  FAILS(ckpt_options_set_monitor(o, NULL), INVALID, "metric is NULL");
  FAILS(ckpt_options_set_monitor(o, not_utf8), INVALID, "metric is not UTF-8: byte 1");
  FAILS(ckpt_options_set_monitor(o, ""), INVALID, "metric is empty");
  OK(ckpt_options_set_monitor(o, "v\xc3\xa4l_loss"));

  FAILS(ckpt_options_set_mode(NULL, CKPT_MODE_MIN), INVALID, "options is NULL");
  FAILS(ckpt_options_set_mode(o, (ckpt_mode)3), INVALID, "mode is 3: expected a number from 0 to 2");
  FAILS(ckpt_options_set_mode(o, (ckpt_mode)-1), INVALID, "mode is -1: expected");

  FAILS(ckpt_options_set_save_best_only(NULL, true), INVALID, "options is NULL");
  FAILS(ckpt_options_set_save_weights_only(NULL, true), INVALID, "options is NULL");
  FAILS(ckpt_options_set_save_freq(NULL, CKPT_SAVE_FREQ_EPOCH), INVALID, "options is NULL");
  OK(ckpt_options_set_save_freq(o, UINT64_MAX));

  OK(ckpt_options_set_save_freq(o, CKPT_SAVE_FREQ_NEVER));
  static const double no_spans[] = {0.0, -1.0, (double)NAN, (double)INFINITY};
  FAILS(ckpt_options_set_save_every_secs(NULL, 1.0), INVALID, "options is NULL");
  FAILS(ckpt_options_set_mtbf(NULL, 1.0), INVALID, "options is NULL");
  FAILS(ckpt_options_set_overhead_budget(NULL, 1.0), INVALID, "options is NULL");
  for (size_t i = 0; i < sizeof no_spans / sizeof *no_spans; i++) {
    FAILS(ckpt_options_set_save_every_secs(o, no_spans[i]), INVALID, "secs is ");
    FAILS(ckpt_options_set_mtbf(o, no_spans[i]), INVALID, "secs is ");
    FAILS(ckpt_options_set_overhead_budget(o, no_spans[i]), INVALID, "fraction is ");
  }
  FAILS(ckpt_options_set_overhead_budget(o, 1.5), INVALID, "fraction is 1.5: expected");
  OK(ckpt_options_set_overhead_budget(o, 1.0));
  FAILS(ckpt_options_set_save_on_signal(NULL, 15), INVALID, "options is NULL");
  FAILS(ckpt_options_set_save_on_signal(o, 9), INVALID, "signum is 9: it cannot be caught");
  FAILS(ckpt_options_set_on_nan(NULL, CKPT_ON_NAN_SKIP), INVALID, "options is NULL");
  FAILS(ckpt_options_set_on_nan(o, (ckpt_on_nan)3), INVALID, "on_nan is 3: expected a number from 0 to 2");
  FAILS(ckpt_options_set_on_nan(o, (ckpt_on_nan)-1), INVALID, "on_nan is -1: expected");
  FAILS(ckpt_options_set_restore_best(NULL, true), INVALID, "options is NULL");

  FAILS(ckpt_options_set_initial_value_threshold(NULL, 0.0), INVALID, "options is NULL");
  FAILS(ckpt_options_set_initial_value_threshold(o, (double)NAN), INVALID, "threshold is NaN");
  OK(ckpt_options_set_initial_value_threshold(o, (double)INFINITY));

  FAILS(ckpt_options_set_min_delta(NULL, 0.0), INVALID, "options is NULL");
  FAILS(ckpt_options_set_min_delta(o, (double)NAN), INVALID, "min_delta is NaN: expected");
  FAILS(ckpt_options_set_min_delta(o, -(double)INFINITY), INVALID, "min_delta is -inf: expected");

  FAILS(ckpt_options_set_verbose(NULL, 1), INVALID, "options is NULL");
  FAILS(ckpt_options_set_verbose(o, 2), INVALID, "verbose is 2: expected a number from 0 to 1");
  FAILS(ckpt_options_set_verbose(o, -1), INVALID, "verbose is -1: expected");

  FAILS(ckpt_options_set_log(NULL, log_nothing, NULL), INVALID, "options is NULL");
  OK(ckpt_options_set_log(o, log_nothing, NULL));
  OK(ckpt_options_set_log(o, NULL, NULL));

  FAILS(ckpt_options_set_async(NULL, CKPT_ASYNC_OFF), INVALID, "options is NULL");
  FAILS(ckpt_options_set_async(o, (ckpt_async)4), INVALID, "kind is 4: expected a number from 0 to 3");
  FAILS(ckpt_options_set_async(o, (ckpt_async)-1), INVALID, "kind is -1: expected");

  OK(ckpt_options_set_async(o, CKPT_ASYNC_SNAPSHOT));

  FAILS(ckpt_options_set_backpressure(NULL, CKPT_BACKPRESSURE_BLOCK), INVALID, "options is NULL");
  FAILS(ckpt_options_set_backpressure(o, (ckpt_backpressure)2), INVALID, "backpressure is 2: expected a number from 0 to 1");
  FAILS(ckpt_options_set_backpressure(o, (ckpt_backpressure)-1), INVALID, "backpressure is -1: expected");
  OK(ckpt_options_set_backpressure(o, CKPT_BACKPRESSURE_REPLACE));

  FAILS(ckpt_options_set_staging_limit(NULL, 0), INVALID, "options is NULL");
  OK(ckpt_options_set_staging_limit(o, UINT64_MAX));
  FAILS(ckpt_options_set_staging_allocator(NULL, give_nothing, take_nothing, NULL), INVALID, "options is NULL");
  FAILS(ckpt_options_set_staging_allocator(o, NULL, take_nothing, NULL), INVALID, "alloc is NULL");
  FAILS(ckpt_options_set_staging_allocator(o, give_nothing, NULL, NULL), INVALID, "dealloc is NULL");
  OK(ckpt_options_set_staging_allocator(o, give_nothing, take_nothing, NULL));
  OK(ckpt_options_set_staging_allocator(o, NULL, NULL, NULL));

  FAILS(ckpt_options_set_backend(NULL, CKPT_BACKEND_AUTO), INVALID, "options is NULL");
  FAILS(ckpt_options_set_backend(o, (ckpt_backend)3), INVALID, "backend is 3: expected a number from 0 to 2");
  FAILS(ckpt_options_set_backend(o, (ckpt_backend)-1), INVALID, "backend is -1: expected");
  OK(ckpt_options_set_backend(o, CKPT_BACKEND_DIRECT));

  FAILS(ckpt_options_set_recycle(NULL, true), INVALID, "options is NULL");
  OK(ckpt_options_set_recycle(o, false));

  FAILS(ckpt_options_set_lock(NULL, CKPT_LOCK_FAIL), INVALID, "options is NULL");
  FAILS(ckpt_options_set_lock(o, (ckpt_lock)3), INVALID, "kind is 3: expected a number from 0 to 2");
  FAILS(ckpt_options_set_lock(o, (ckpt_lock)-1), INVALID, "kind is -1: expected");
  OK(ckpt_options_set_lock(o, CKPT_LOCK_OFF));

  FAILS(ckpt_options_set_progress(NULL, hear_nothing, NULL), INVALID, "options is NULL");
  OK(ckpt_options_set_progress(o, hear_nothing, NULL));
  OK(ckpt_options_set_progress(o, NULL, NULL));

  FAILS(ckpt_options_set_durability(NULL, CKPT_DURABILITY_FULL), INVALID, "options is NULL");
  FAILS(ckpt_options_set_durability(o, (ckpt_durability)2), INVALID, "durability is 2: expected a number from 0 to 1");
  FAILS(ckpt_options_set_durability(o, (ckpt_durability)-1), INVALID, "durability is -1: expected");

  FAILS(ckpt_options_set_threads(NULL, 1), INVALID, "options is NULL");
  FAILS(ckpt_options_set_max_shard_bytes(NULL, 1), INVALID, "options is NULL");
  FAILS(ckpt_options_set_max_shard_bytes(o, 0), INVALID, "bytes is 0: expected");
  OK(ckpt_options_set_max_shard_bytes(o, 1));
  FAILS(ckpt_options_set_keep_last(NULL, 1), INVALID, "options is NULL");
  FAILS(ckpt_options_set_keep_best(NULL, 1), INVALID, "options is NULL");
  FAILS(ckpt_options_set_keep_every(NULL, 1), INVALID, "options is NULL");
  FAILS(ckpt_options_set_keep_every_secs(NULL, 1.0), INVALID, "options is NULL");
  FAILS(ckpt_options_set_keep_every_secs(o, -1.0), INVALID, "secs is -1: expected");
  FAILS(ckpt_options_set_keep_every_secs(o, (double)NAN), INVALID, "secs is NaN: expected");
  FAILS(ckpt_options_set_keep_every_secs(o, (double)INFINITY), INVALID, "secs is inf: expected");
  OK(ckpt_options_set_keep_every_secs(o, 0.0));
  FAILS(ckpt_options_set_save_last(NULL, "last.keras"), INVALID, "options is NULL");
  FAILS(ckpt_options_set_save_last(o, not_utf8), INVALID, "path is not UTF-8: byte 1");
  FAILS(ckpt_options_set_save_last(o, ""), INVALID, "path is empty");
  OK(ckpt_options_set_save_last(o, "last.keras"));
  OK(ckpt_options_set_save_last(o, NULL));
  ckpt_options_free(o);
}

static void session_creation(const ckpt_options *weights_only) {
  ckpt *session = SENTINEL;
  FAILS(ckpt_new(NULL, weights_only, &session), INVALID, "filepath is NULL");
  FAILS(ckpt_new(not_utf8, weights_only, &session), INVALID, "filepath is not UTF-8: byte 1");
  FAILS(ckpt_new("a.weights.h5", weights_only, NULL), INVALID, "out is NULL");
  FAILS(ckpt_new("{epoch.weights.h5", weights_only, &session), CKPT_E_TEMPLATE, "filepath");
  UNTOUCHED(session);
  OK(ckpt_new("a.keras", NULL, &session));
  ckpt_free(session);
}

static void logs(ckpt *s, ckpt_status (*event)(ckpt *, uint64_t, const ckpt_metric *, size_t), const char *name) {
  ckpt_metric metrics[] = {{"loss", 1.0}, {NULL, 2.0}};
  CHECK(event(NULL, 0, metrics, 1) == INVALID && strstr(ckpt_last_error(), "session is NULL"));
  CHECK(strncmp(ckpt_last_error(), name, strlen(name)) == 0);
  CHECK(event(s, 0, NULL, 2) == INVALID && strstr(ckpt_last_error(), "logs is NULL, but 2 elements are announced"));
  CHECK(event(s, 0, metrics, 2) == INVALID && strstr(ckpt_last_error(), "logs[1].name is NULL"));
  metrics[1].name = not_utf8;
  CHECK(event(s, 0, metrics, 2) == INVALID && strstr(ckpt_last_error(), "logs[1].name is not UTF-8"));
  CHECK(event(s, 0, metrics, SIZE_MAX) == INVALID && strstr(ckpt_last_error(), "logs cannot hold"));
  CHECK(event(s, 0, NULL, 0) == CKPT_OK);
}

static void session(const ckpt_options *weights_only, ckpt_model *model) {
  ckpt *s = NULL;
  const char *path = SENTINEL;
  double best = 42.0;
  ckpt_stats stats = {0};
  stats.bytes = 42;

  OK(ckpt_new("null_args/{epoch}.weights.h5", weights_only, &s));
  FAILS(ckpt_on_epoch_begin(NULL, 0), INVALID, "session is NULL");
  logs(s, ckpt_on_train_batch_end, "ckpt_on_train_batch_end: ");

  CHECK(!ckpt_should_save(NULL) && !ckpt_should_save(s));
  CHECK(ckpt_path(NULL) == NULL && ckpt_path(s) == NULL);
  FAILS(ckpt_save(NULL, model), INVALID, "session is NULL");
  FAILS(ckpt_save(s, NULL), INVALID, "model is NULL");
  FAILS(ckpt_save(s, model), CKPT_E_STATE, "due");
  FAILS(ckpt_wait_buffers(NULL), INVALID, "session is NULL");
  FAILS(ckpt_wait(NULL), INVALID, "session is NULL");
  OK(ckpt_wait_buffers(s));
  OK(ckpt_wait(s));
  FAILS(ckpt_cancel(NULL), INVALID, "session is NULL");
  OK(ckpt_cancel(s));

  FAILS(ckpt_on_train_end(NULL, model), INVALID, "session is NULL");
  OK(ckpt_on_train_end(s, NULL));
  CHECK(!ckpt_preempted(NULL) && !ckpt_preempted(s));

  FAILS(ckpt_best(NULL, &best), INVALID, "session is NULL");
  FAILS(ckpt_best(s, NULL), INVALID, "out is NULL");
  FAILS(ckpt_best(s, &best), CKPT_E_NOT_FOUND, "best");
  CHECK(best == 42.0);
  FAILS(ckpt_best_path(NULL, &path), INVALID, "session is NULL");
  FAILS(ckpt_best_path(s, NULL), INVALID, "out is NULL");
  FAILS(ckpt_best_path(s, &path), CKPT_E_NOT_FOUND, "best");
  UNTOUCHED(path);
  FAILS(ckpt_load_best(NULL, model), INVALID, "session is NULL");
  FAILS(ckpt_load_best(s, NULL), INVALID, "model is NULL");
  FAILS(ckpt_load_best(s, model), CKPT_E_NOT_FOUND, "best");
  FAILS(ckpt_prepare(NULL, model), INVALID, "session is NULL");
  FAILS(ckpt_prepare(s, NULL), INVALID, "model is NULL");
  FAILS(ckpt_last_stats(NULL, &stats), INVALID, "session is NULL");
  FAILS(ckpt_last_stats(s, NULL), INVALID, "out is NULL");
  FAILS(ckpt_last_stats(s, &stats), CKPT_E_NOT_FOUND, "save");
  CHECK(stats.bytes == 42);

  ckpt_resume_info resumed = {42, 42, true, 42.0, SENTINEL};
  FAILS(ckpt_resume(NULL, model, &resumed), INVALID, "session is NULL");
  FAILS(ckpt_resume(s, NULL, &resumed), INVALID, "model is NULL");
  FAILS(ckpt_resume(s, model, NULL), INVALID, "out is NULL");
  FAILS(ckpt_resume(s, model, &resumed), CKPT_E_NOT_FOUND, "no checkpoint of");
  CHECK(resumed.epoch == 42 && resumed.batch == 42 && resumed.has_best && resumed.best == 42.0);
  UNTOUCHED(resumed.path);
  const void *state = SENTINEL;
  size_t state_len = 42;
  FAILS(ckpt_set_state(NULL, "rng", "x", 1), INVALID, "session is NULL");
  FAILS(ckpt_set_state(s, NULL, "x", 1), INVALID, "key is NULL");
  FAILS(ckpt_set_state(s, "", "x", 1), INVALID, "key has 0 bytes");
  FAILS(ckpt_set_state(s, not_utf8, "x", 1), INVALID, "key is not UTF-8");
  FAILS(ckpt_set_state(s, "rng", NULL, 1), INVALID, "bytes is NULL");
  FAILS(ckpt_get_state(NULL, "rng", &state, &state_len), INVALID, "session is NULL");
  FAILS(ckpt_get_state(s, NULL, &state, &state_len), INVALID, "key is NULL");
  FAILS(ckpt_get_state(s, not_utf8, &state, &state_len), INVALID, "key is not UTF-8");
  FAILS(ckpt_get_state(s, "rng", NULL, &state_len), INVALID, "bytes is NULL");
  FAILS(ckpt_get_state(s, "rng", &state, NULL), INVALID, "n is NULL");
  FAILS(ckpt_get_state(s, "rng", &state, &state_len), CKPT_E_NOT_FOUND, "'rng'");
  UNTOUCHED(state);
  CHECK(state_len == 42);
  OK(ckpt_set_state(s, "rng", NULL, 0));
  OK(ckpt_get_state(s, "rng", &state, &state_len));
  CHECK(state != NULL && state_len == 0);

  /* Last, since its last call makes a save due. */
  logs(s, ckpt_on_epoch_end, "ckpt_on_epoch_end: ");
  CHECK(ckpt_should_save(s));
  FAILS(ckpt_save(NULL, model), INVALID, "session is NULL");
  FAILS(ckpt_save(s, NULL), INVALID, "model is NULL");
  CHECK(ckpt_should_save(s));
  ckpt_free(s);
}

static void model_add(ckpt_model *m) {
  static const char *const bad_paths[] = {"",      "/",  "/a",      "a/",        "a//b", ".",
                                          "..",    "a/.", "a/../b", "libckpt", "libckpt/x"};
  float data[6] = {0};
  const int64_t shape[] = {2, 3}, negative[] = {2, -3}, huge[] = {INT64_MAX, INT64_MAX}, ones[33] = {0};
  const int64_t far_strides[] = {INT64_MAX, 1};

  FAILS(ckpt_model_add(NULL, "a", CKPT_DTYPE_F32, 2, shape, NULL, data), INVALID, "model is NULL");
  FAILS(ckpt_model_add(m, NULL, CKPT_DTYPE_F32, 2, shape, NULL, data), INVALID, "path is NULL");
  FAILS(ckpt_model_add(m, not_utf8, CKPT_DTYPE_F32, 2, shape, NULL, data), INVALID, "path is not UTF-8: byte 1");
  FAILS(ckpt_model_add(m, "a", (ckpt_dtype)13, 2, shape, NULL, data), INVALID, "dtype is 13: expected");
  FAILS(ckpt_model_add(m, "a", (ckpt_dtype)99, 2, shape, NULL, data), INVALID, "dtype is 99: expected");
  FAILS(ckpt_model_add(m, "a", (ckpt_dtype)-1, 2, shape, NULL, data), INVALID, "dtype is -1: expected");
  FAILS(ckpt_model_add(m, "a", CKPT_DTYPE_F32, 33, ones, NULL, data), INVALID, "rank of tensor 'a' is 33");
  FAILS(ckpt_model_add(m, "a", CKPT_DTYPE_F32, 2, NULL, NULL, data), INVALID, "shape is NULL");
  FAILS(ckpt_model_add(m, "a", CKPT_DTYPE_F32, 2, negative, NULL, data), INVALID, "shape[1] of tensor 'a'");
  FAILS(ckpt_model_add(m, "a", CKPT_DTYPE_F32, 2, huge, NULL, data), INVALID, "tensor 'a'");
  FAILS(ckpt_model_add(m, "a", CKPT_DTYPE_F32, 2, shape, far_strides, data), INVALID, "stride");
  FAILS(ckpt_model_add(m, "a", CKPT_DTYPE_F32, 2, shape, NULL, NULL), INVALID, "data");
  for (size_t i = 0; i < sizeof bad_paths / sizeof *bad_paths; i++)
    FAILS(ckpt_model_add(m, bad_paths[i], CKPT_DTYPE_F32, 2, shape, NULL, data), INVALID, "path");

  /* Nothing of that has stayed: the path is free. Then it is taken. */
  OK(ckpt_model_add(m, "a", CKPT_DTYPE_F32, 2, shape, NULL, data));
  FAILS(ckpt_model_add(m, "a", CKPT_DTYPE_F32, 2, shape, NULL, data), INVALID, "'a'");
  FAILS(ckpt_model_add(m, "a/b", CKPT_DTYPE_F32, 2, shape, NULL, data), INVALID, "'a'");
  OK(ckpt_model_add(m, "g/b", CKPT_DTYPE_F32, 0, NULL, NULL, data));
  FAILS(ckpt_model_add(m, "g", CKPT_DTYPE_F32, 2, shape, NULL, data), INVALID, "'g'");
  OK(ckpt_model_add(m, "empty", CKPT_DTYPE_F32, 2, (const int64_t[]){0, INT64_MAX}, NULL, NULL));
}

static ckpt_status fetch_nothing(void *dst, uint64_t offset, uint64_t nbytes, void *user) {
  (void)dst, (void)offset, (void)nbytes, (void)user;
  return CKPT_OK;
}

static void model_add_source(void) {
  const int64_t shape[] = {2, 3}, negative[] = {2, -3}, huge[] = {INT64_MAX, INT64_MAX}, ones[33] = {0};
  const ckpt_dtype f32 = CKPT_DTYPE_F32;
  ckpt_fetch_fn fetch = fetch_nothing;
  ckpt_model *m = NULL;
  float data[6];
  OK(ckpt_model_new(&m));
  FAILS(ckpt_model_add_source(NULL, "s", f32, 2, shape, fetch, NULL, NULL), INVALID, "model is NULL");
  FAILS(ckpt_model_add_source(m, NULL, f32, 2, shape, fetch, NULL, NULL), INVALID, "path is NULL");
  FAILS(ckpt_model_add_source(m, not_utf8, f32, 2, shape, fetch, NULL, NULL), INVALID, "path is not UTF-8");
  FAILS(ckpt_model_add_source(m, "../s", f32, 2, shape, fetch, NULL, NULL), INVALID, "path");
  FAILS(ckpt_model_add_source(m, "s", (ckpt_dtype)13, 2, shape, fetch, NULL, NULL), INVALID, "dtype is 13: expected");
  FAILS(ckpt_model_add_source(m, "s", f32, 33, ones, fetch, NULL, NULL), INVALID, "rank of tensor 's' is 33");
  FAILS(ckpt_model_add_source(m, "s", f32, 2, NULL, fetch, NULL, NULL), INVALID, "shape is NULL");
  FAILS(ckpt_model_add_source(m, "s", f32, 2, negative, fetch, NULL, NULL), INVALID, "shape[1] of tensor 's'");
  FAILS(ckpt_model_add_source(m, "s", f32, 2, huge, fetch, NULL, NULL), INVALID, "tensor 's'");
  FAILS(ckpt_model_add_source(m, "s", f32, 2, shape, NULL, NULL, NULL), INVALID, "fetch is NULL");
  OK(ckpt_model_add_source(m, "s", f32, 2, shape, fetch, NULL, NULL));
  FAILS(ckpt_model_add_source(m, "s", f32, 2, shape, fetch, NULL, NULL), INVALID, "'s'");
  FAILS(ckpt_model_set_data(m, "s", data), INVALID, "tensor 's': it has no memory that could move");
  ckpt_model_free(m);
}

static ckpt_status stand(ckpt_fence_at at, void *user) {
  (void)at, (void)user;
  return CKPT_OK;
}

static void release(void *user) { (void)user; }

static void model_add_fence(void) {
  ckpt_model *m = NULL;
  void *owned = SENTINEL;
  OK(ckpt_model_new(&m));
  FAILS(ckpt_model_add_fence(NULL, stand, NULL), INVALID, "model is NULL");
  FAILS(ckpt_model_add_fence(m, NULL, NULL), INVALID, "fence is NULL");
  FAILS(ckpt_model_own(NULL, "k", release, NULL), INVALID, "model is NULL");
  FAILS(ckpt_model_own(m, not_utf8, release, NULL), INVALID, "key_or_null is not UTF-8");
  FAILS(ckpt_model_own(m, "k", NULL, NULL), INVALID, "release is NULL");
  FAILS(ckpt_model_owned(NULL, "k", &owned), INVALID, "model is NULL");
  FAILS(ckpt_model_owned(m, NULL, &owned), INVALID, "key is NULL");
  FAILS(ckpt_model_owned(m, not_utf8, &owned), INVALID, "key is not UTF-8");
  FAILS(ckpt_model_owned(m, "k", &owned), CKPT_E_NOT_FOUND, "'k'");
  UNTOUCHED(owned);
  OK(ckpt_model_own(m, "k", release, NULL));
  FAILS(ckpt_model_owned(m, "k", NULL), INVALID, "out is NULL");
  FAILS(ckpt_set_last_error(NULL), INVALID, "message is NULL");
  OK(ckpt_set_last_error(not_utf8));
  CHECK(strcmp(ckpt_last_error(), "a\xef\xbf\xbd/b.weights.h5") == 0);
  ckpt_model_free(m);
}

static void model(void) {
  ckpt_model *m = NULL;
  float data = 0;
  FAILS(ckpt_model_new(NULL), INVALID, "out is NULL");
  OK(ckpt_model_new(&m));
  model_add(m);
  model_add_source();
  model_add_fence();

  FAILS(ckpt_model_set_name(NULL, "layers/x", "x"), INVALID, "model is NULL");
  FAILS(ckpt_model_set_name(m, NULL, "x"), INVALID, "group is NULL");
  FAILS(ckpt_model_set_name(m, not_utf8, "x"), INVALID, "group is not UTF-8");
  FAILS(ckpt_model_set_name(m, "layers//x", "x"), INVALID, "layers//x");
  FAILS(ckpt_model_set_name(m, "a", "x"), INVALID, "'a'"); /* a tensor */
  FAILS(ckpt_model_set_name(m, "layers/x", NULL), INVALID, "name is NULL");
  FAILS(ckpt_model_set_name(m, "layers/x", not_utf8), INVALID, "name is not UTF-8");
  OK(ckpt_model_set_name(m, "", "root"));

  FAILS(ckpt_model_set_data(NULL, "a", &data), INVALID, "model is NULL");
  FAILS(ckpt_model_set_data(m, NULL, &data), INVALID, "path is NULL");
  FAILS(ckpt_model_set_data(m, not_utf8, &data), INVALID, "path is not UTF-8");
  FAILS(ckpt_model_set_data(m, "nothing", &data), CKPT_E_NOT_FOUND, "'nothing'");
  FAILS(ckpt_model_set_data(m, "g", &data), CKPT_E_NOT_FOUND, "'g'"); /* a group */
  FAILS(ckpt_model_set_data(m, "a", NULL), INVALID, "data");
  OK(ckpt_model_set_data(m, "empty", NULL));

  FAILS(ckpt_model_set_config(NULL, "{}"), INVALID, "model is NULL");
  FAILS(ckpt_model_set_config(m, NULL), INVALID, "config_json is NULL");
  FAILS(ckpt_model_set_config(m, not_utf8), INVALID, "config_json is not UTF-8");
  FAILS(ckpt_model_set_config(m, "{\"class_name\": "), INVALID, "JSON");
  FAILS(ckpt_model_set_config(m, "[]"), INVALID, "object");
  FAILS(ckpt_model_set_config(m, "{\"module\": \"keras\", \"config\": {}}"), INVALID, "class_name");
  FAILS(ckpt_model_set_config(m, "{\"module\": \"keras\", \"class_name\": \"Sequential\"}"), INVALID, "\"config\"");

  FAILS(ckpt_model_set_asset(NULL, "a", "x", 1), INVALID, "model is NULL");
  FAILS(ckpt_model_set_asset(m, NULL, "x", 1), INVALID, "name is NULL");
  FAILS(ckpt_model_set_asset(m, not_utf8, "x", 1), INVALID, "name is not UTF-8");
  FAILS(ckpt_model_set_asset(m, "a", NULL, 1), INVALID, "bytes is NULL, but 1 elements are announced");
  FAILS(ckpt_model_set_asset(m, "a", "x", SIZE_MAX), INVALID, "bytes cannot hold");
  FAILS(ckpt_model_set_asset(m, "", "x", 1), INVALID, "asset name '' has an empty component");
  FAILS(ckpt_model_set_asset(m, "a//b", "x", 1), INVALID, "asset name 'a//b' has an empty component");
  FAILS(ckpt_model_set_asset(m, "../a", "x", 1), INVALID, "the component '..'");
  FAILS(ckpt_model_set_asset(m, "a\\b", "x", 1), INVALID, "a backslash");
  OK(ckpt_model_set_asset(m, "a", NULL, 0));
  FAILS(ckpt_model_set_asset(m, "a/b", "x", 1), INVALID, "an asset 'a'");

  FAILS(ckpt_model_set_metadata(NULL, "format", "pt"), INVALID, "model is NULL");
  FAILS(ckpt_model_set_metadata(m, NULL, "pt"), INVALID, "key is NULL");
  FAILS(ckpt_model_set_metadata(m, not_utf8, "pt"), INVALID, "key is not UTF-8");
  FAILS(ckpt_model_set_metadata(m, "format", NULL), INVALID, "value is NULL");
  FAILS(ckpt_model_set_metadata(m, "format", not_utf8), INVALID, "value is not UTF-8");
  FAILS(ckpt_model_set_metadata(m, "libckpt.x", "pt"), INVALID, "'libckpt.x'");
  OK(ckpt_model_set_metadata(m, "format", "pt"));

  FAILS(ckpt_model_save(NULL, "null_args/a.weights.h5"), INVALID, "model is NULL");
  FAILS(ckpt_model_save(m, NULL), INVALID, "path is NULL");
  FAILS(ckpt_model_save(m, not_utf8), INVALID, "path is not UTF-8");
  FAILS(ckpt_model_save(m, "null_args/a.txt"), CKPT_E_UNSUPPORTED, "null_args/a.txt");
  FAILS(ckpt_model_save(m, "null_args/a.keras"), CKPT_E_STATE, "ckpt_model_set_config");
  FAILS(ckpt_model_save(m, "null_args/a.h5"), CKPT_E_STATE, "ckpt_model_set_config");
  CHECK(!exists("null_args/a.keras") && !exists("null_args/a.txt"));
  ckpt_model_free(m);
}

static void load_flags(const ckpt_reader *r, ckpt_model *m) {
  ckpt_rename renames[] = {{"a", "b"}, {NULL, "w"}};
  const char *path = SENTINEL, *reason = SENTINEL;
  size_t loaded = 42;
  FAILS(ckpt_reader_load_flags(NULL, m, 0, NULL, 0, &loaded), INVALID, "reader is NULL");
  FAILS(ckpt_reader_load_flags(r, NULL, 0, NULL, 0, &loaded), INVALID, "model is NULL");
  FAILS(ckpt_reader_load_flags(r, m, 16, NULL, 0, &loaded), INVALID, "flags is 0x10: there is no flag 0x10");
  FAILS(ckpt_reader_load_flags(r, m, UINT32_MAX, NULL, 0, &loaded), INVALID, "there is no flag 0xfffffff0");
  FAILS(ckpt_reader_load_flags(r, m, 0, NULL, 1, &loaded), INVALID, "renames is NULL, but 1 elements are announced");
  FAILS(ckpt_reader_load_flags(r, m, 0, renames, SIZE_MAX, &loaded), INVALID, "renames cannot hold");
  FAILS(ckpt_reader_load_flags(r, m, 0, renames, 2, &loaded), INVALID, "renames[1].file_prefix is NULL");
  renames[1].file_prefix = not_utf8;
  FAILS(ckpt_reader_load_flags(r, m, 0, renames, 2, &loaded), INVALID, "renames[1].file_prefix is not UTF-8");
  renames[1].file_prefix = "a/";
  FAILS(ckpt_reader_load_flags(r, m, 0, renames, 2, &loaded), INVALID, "renames[1].file_prefix 'a/'");
  renames[1].file_prefix = "c";
  renames[1].model_prefix = NULL;
  FAILS(ckpt_reader_load_flags(r, m, 0, renames, 2, &loaded), INVALID, "renames[1].model_prefix is NULL");
  renames[1].model_prefix = "b";
  FAILS(ckpt_reader_load_flags(r, m, 0, renames, 2, &loaded), INVALID, "renames[1].model_prefix 'b'");
  CHECK(loaded == 42);
  OK(ckpt_reader_load_flags(r, m, 0, renames, 1, NULL));

  CHECK(ckpt_model_skipped_len(NULL) == 0 && ckpt_model_skipped_len(m) == 0);
  FAILS(ckpt_model_skipped(NULL, 0, &path, &reason), INVALID, "model is NULL");
  FAILS(ckpt_model_skipped(m, 0, NULL, &reason), INVALID, "path is NULL");
  FAILS(ckpt_model_skipped(m, 0, &path, NULL), INVALID, "reason is NULL");
  FAILS(ckpt_model_skipped(m, 0, &path, &reason), INVALID, "index is 0, but 0 tensors were skipped");
  UNTOUCHED(path);
  UNTOUCHED(reason);
}

/* What a .weights.h5 file without any of it says. */
static void contents(const ckpt_reader *r) {
  const char *text = SENTINEL, *other = SENTINEL;
  const void *bytes = SENTINEL;
  size_t n = 42;
  FAILS(ckpt_reader_config(NULL, &text), INVALID, "reader is NULL");
  FAILS(ckpt_reader_config(r, NULL), INVALID, "out is NULL");
  FAILS(ckpt_reader_config(r, &text), CKPT_E_NOT_FOUND, "configuration");
  FAILS(ckpt_reader_metadata(NULL, &text), INVALID, "reader is NULL");
  FAILS(ckpt_reader_metadata(r, NULL), INVALID, "out is NULL");
  FAILS(ckpt_reader_metadata(r, &text), CKPT_E_NOT_FOUND, "metadata");
  FAILS(ckpt_reader_state(NULL, &text), INVALID, "reader is NULL");
  FAILS(ckpt_reader_state(r, NULL), INVALID, "out is NULL");
  FAILS(ckpt_reader_name(NULL, "layers/x", &text), INVALID, "reader is NULL");
  FAILS(ckpt_reader_name(r, NULL, &text), INVALID, "group is NULL");
  FAILS(ckpt_reader_name(r, not_utf8, &text), INVALID, "group is not UTF-8");
  FAILS(ckpt_reader_name(r, "layers/x", NULL), INVALID, "out is NULL");
  FAILS(ckpt_reader_name(r, "layers/x", &text), CKPT_E_NOT_FOUND, "'layers/x'");

  CHECK(ckpt_reader_groups_len(NULL) == 0 && ckpt_reader_groups_len(r) == 0);
  FAILS(ckpt_reader_group(NULL, 0, &text, &other), INVALID, "reader is NULL");
  FAILS(ckpt_reader_group(r, 0, NULL, &other), INVALID, "group is NULL");
  FAILS(ckpt_reader_group(r, 0, &text, NULL), INVALID, "name is NULL");
  FAILS(ckpt_reader_group(r, 0, &text, &other), INVALID, "index is 0, but 0 groups have a name");

  CHECK(ckpt_reader_assets_len(NULL) == 0 && ckpt_reader_assets_len(r) == 0);
  FAILS(ckpt_reader_asset_name(NULL, 0, &text), INVALID, "reader is NULL");
  FAILS(ckpt_reader_asset_name(r, 0, NULL), INVALID, "out is NULL");
  FAILS(ckpt_reader_asset_name(r, 0, &text), INVALID, "index is 0, but there are 0 assets");
  FAILS(ckpt_reader_asset(NULL, "a", &bytes, &n), INVALID, "reader is NULL");
  FAILS(ckpt_reader_asset(r, NULL, &bytes, &n), INVALID, "name is NULL");
  FAILS(ckpt_reader_asset(r, not_utf8, &bytes, &n), INVALID, "name is not UTF-8");
  FAILS(ckpt_reader_asset(r, "a", NULL, &n), INVALID, "bytes is NULL");
  FAILS(ckpt_reader_asset(r, "a", &bytes, NULL), INVALID, "n is NULL");
  FAILS(ckpt_reader_asset(r, "a", &bytes, &n), CKPT_E_NOT_FOUND, "'a'");
  UNTOUCHED(text);
  UNTOUCHED(other);
  UNTOUCHED(bytes);
  CHECK(n == 42);
  OK(ckpt_reader_state(r, &text));
}

static void conversion(void) {
  FAILS(ckpt_convert(NULL, "null_args/b.weights.h5"), INVALID, "src is NULL");
  FAILS(ckpt_convert(not_utf8, "null_args/b.weights.h5"), INVALID, "src is not UTF-8");
  FAILS(ckpt_convert("null_args/a.weights.h5", NULL), INVALID, "dst is NULL");
  FAILS(ckpt_convert("null_args/a.weights.h5", not_utf8), INVALID, "dst is not UTF-8");
  FAILS(ckpt_convert("null_args/a.weights.h5", "null_args/b.txt"), CKPT_E_UNSUPPORTED, "null_args/b.txt");
}

static void reader(ckpt_model *saved) {
  ckpt_reader *r = SENTINEL;
  size_t index = 42;
  ckpt_tensor_info info = {0};
  float data[6] = {7, 7, 7, 7, 7, 7};
  info.rank = 42;

  OK(ckpt_model_save(saved, "null_args/a.weights.h5"));
  FAILS(ckpt_reader_open(NULL, &r), INVALID, "path is NULL");
  FAILS(ckpt_reader_open(not_utf8, &r), INVALID, "path is not UTF-8");
  FAILS(ckpt_reader_open("null_args/a.weights.h5", NULL), INVALID, "out is NULL");
  FAILS(ckpt_reader_open("null_args/none.weights.h5", &r), CKPT_E_NOT_FOUND, "null_args/none.weights.h5");
  FAILS(ckpt_reader_open("/dev/null", &r), CKPT_E_FORMAT, "/dev/null");
  UNTOUCHED(r);
  OK(ckpt_reader_open("null_args/a.weights.h5", &r));

  ckpt_reader_free(r);
  r = SENTINEL;
  FAILS(ckpt_reader_open_flags(NULL, 0, &r), INVALID, "path is NULL");
  FAILS(ckpt_reader_open_flags(not_utf8, 0, &r), INVALID, "path is not UTF-8");
  FAILS(ckpt_reader_open_flags("null_args/a.weights.h5", 0, NULL), INVALID, "out is NULL");
  FAILS(ckpt_reader_open_flags("null_args/a.weights.h5", 3, &r), INVALID, "flags is 0x3: there is no flag 0x2");
  FAILS(ckpt_reader_open_flags("null_args/none.weights.h5", 1, &r), CKPT_E_NOT_FOUND, "null_args/none.weights.h5");
  UNTOUCHED(r);
  OK(ckpt_reader_open_flags("null_args/a.weights.h5", CKPT_OPEN_NO_HDF5_LIBRARY, &r));

  CHECK(ckpt_reader_len(NULL) == 0 && ckpt_reader_len(r) == 1);
  FAILS(ckpt_reader_find(NULL, "w", &index), INVALID, "reader is NULL");
  FAILS(ckpt_reader_find(r, NULL, &index), INVALID, "path is NULL");
  FAILS(ckpt_reader_find(r, not_utf8, &index), INVALID, "path is not UTF-8");
  FAILS(ckpt_reader_find(r, "w", NULL), INVALID, "index is NULL");
  FAILS(ckpt_reader_find(r, "none", &index), CKPT_E_NOT_FOUND, "'none'");
  CHECK(index == 42);
  OK(ckpt_reader_find(r, "w", &index));
  CHECK(index == 0);

  FAILS(ckpt_reader_tensor(NULL, 0, &info), INVALID, "reader is NULL");
  FAILS(ckpt_reader_tensor(r, 1, &info), INVALID, "index is 1, but there are 1 tensors");
  FAILS(ckpt_reader_tensor(r, 0, NULL), INVALID, "out is NULL");
  CHECK(info.rank == 42);

  FAILS(ckpt_reader_read(NULL, 0, data, sizeof data), INVALID, "reader is NULL");
  FAILS(ckpt_reader_read(r, SIZE_MAX, data, sizeof data), INVALID, "index is 18446744073709551615");
  FAILS(ckpt_reader_read(r, 0, NULL, sizeof data), INVALID, "dst is NULL");
  FAILS(ckpt_reader_read(r, 0, data, sizeof data - 1), CKPT_E_MISMATCH, "dst_bytes is 23");
  CHECK(data[0] == 7 && data[5] == 7);

  FAILS(ckpt_reader_load(NULL, saved), INVALID, "reader is NULL");
  FAILS(ckpt_reader_load(r, NULL), INVALID, "model is NULL");
  load_flags(r, saved);
  contents(r);
  FAILS(ckpt_reader_verify(NULL), INVALID, "reader is NULL");
  OK(ckpt_reader_verify(r));
  ckpt_reader_free(r);
}

static void keras(void) {
  const ckpt_dtype F32 = CKPT_DTYPE_F32;
  ckpt_keras *k = NULL;
  ckpt_model *m = SENTINEL;
  size_t layer = 42;
  ckpt_tensor_info info = {SENTINEL, CKPT_DTYPE_F32, 42, SENTINEL, 42};
  float weights[6] = {0};
  const int64_t strides[] = {1, 2};

  FAILS(ckpt_keras_new(NULL), INVALID, "out is NULL");
  OK(ckpt_keras_new(&k));
  FAILS(ckpt_keras_add(NULL, "Dense", "{}", &layer), INVALID, "keras is NULL");
  FAILS(ckpt_keras_add(k, NULL, "{}", &layer), INVALID, "class_name is NULL");
  FAILS(ckpt_keras_add(k, not_utf8, "{}", &layer), INVALID, "class_name is not UTF-8");
  FAILS(ckpt_keras_add(k, "Dense", NULL, &layer), INVALID, "config_json is NULL");
  FAILS(ckpt_keras_add(k, "Dense", not_utf8, &layer), INVALID, "config_json is not UTF-8");
  FAILS(ckpt_keras_add(k, "Dense", "{\"units\": 3}", &layer), CKPT_E_STATE, "add an InputLayer before 'Dense'");
  CHECK(layer == 42);
  OK(ckpt_keras_add(k, "InputLayer", "{\"shape\": [2]}", NULL));
  OK(ckpt_keras_add(k, "Dense", "{\"units\": 3, \"use_bias\": false}", &layer));
  CHECK(layer == 1);

  FAILS(ckpt_keras_variable(NULL, 1, "kernel", &info), INVALID, "keras is NULL");
  FAILS(ckpt_keras_variable(k, 1, NULL, &info), INVALID, "variable is NULL");
  FAILS(ckpt_keras_variable(k, 1, "kernel", NULL), INVALID, "out is NULL");
  FAILS(ckpt_keras_variable(k, 1, "bias", &info), CKPT_E_NOT_FOUND, "no variable 'bias'; it has kernel");
  UNTOUCHED(info.path);
  OK(ckpt_keras_variable(k, 1, "kernel", &info));
  CHECK(strcmp(info.path, "layers/dense/vars/0") == 0 && info.dtype == CKPT_DTYPE_F32 && info.nbytes == 24);
  CHECK(info.rank == 2 && info.shape[0] == 2 && info.shape[1] == 3);

  FAILS(ckpt_keras_bind(NULL, 1, "kernel", F32, NULL, weights), INVALID, "keras is NULL");
  FAILS(ckpt_keras_bind(k, 1, NULL, F32, NULL, weights), INVALID, "variable is NULL");
  FAILS(ckpt_keras_bind(k, 1, "kernel", (ckpt_dtype)13, NULL, weights), INVALID, "dtype");
  FAILS(ckpt_keras_bind(k, 1, "kernel", CKPT_DTYPE_F64, NULL, weights), CKPT_E_MISMATCH, "is float32, not float64");
  FAILS(ckpt_keras_bind(k, 1, "kernel", F32, strides, NULL), INVALID, "data is NULL");
  FAILS(ckpt_keras_bind_source(NULL, 1, "kernel", F32, fetch_nothing, NULL, NULL), INVALID, "keras is NULL");
  FAILS(ckpt_keras_bind_source(k, 1, NULL, F32, fetch_nothing, NULL, NULL), INVALID, "variable is NULL");
  FAILS(ckpt_keras_bind_source(k, 1, "kernel", CKPT_DTYPE_F16, fetch_nothing, NULL, NULL), CKPT_E_MISMATCH, "float16");
  FAILS(ckpt_keras_bind_source(k, 1, "kernel", F32, NULL, NULL, NULL), INVALID, "fetch is NULL");
  FAILS(ckpt_keras_model(k, &m), CKPT_E_STATE, "'kernel' of layer 'dense' is not bound");
  UNTOUCHED(m);
  OK(ckpt_keras_bind(k, 1, "kernel", F32, strides, weights));

  FAILS(ckpt_keras_bind_optimizer(k, "iteration", 0, NULL, CKPT_DTYPE_I64, NULL, weights), CKPT_E_STATE, "not compiled");
  FAILS(ckpt_keras_compile(NULL, "Adam", "{}"), INVALID, "keras is NULL");
  FAILS(ckpt_keras_compile(k, NULL, "{}"), INVALID, "optimizer_class is NULL");
  FAILS(ckpt_keras_compile(k, "Adam", NULL), INVALID, "config_json is NULL");
  FAILS(ckpt_keras_compile(k, "Adam", "7"), INVALID, "a JSON object");
  OK(ckpt_keras_compile(k, "SGD", "{\"momentum\": 0.9}"));
  FAILS(ckpt_keras_bind_optimizer(NULL, "momentum", 1, "kernel", F32, NULL, weights), INVALID, "keras is NULL");
  FAILS(ckpt_keras_bind_optimizer(k, NULL, 1, "kernel", F32, NULL, weights), INVALID, "slot is NULL");
  FAILS(ckpt_keras_bind_optimizer(k, "momentum", 1, "kernel", F32, NULL, NULL), INVALID, "data is NULL");
  FAILS(ckpt_keras_bind_optimizer(k, "momentum", 1, NULL, F32, NULL, weights), CKPT_E_NOT_FOUND, "SGD has no 'momentum'");

  FAILS(ckpt_keras_model(NULL, &m), INVALID, "keras is NULL");
  FAILS(ckpt_keras_model(k, NULL), INVALID, "out is NULL");
  UNTOUCHED(m);
  OK(ckpt_keras_model(k, &m));
  ckpt_keras_free(k);
  OK(ckpt_model_save(m, "null_args/builder.keras"));
  ckpt_model_free(m);
}

int main(void) {
  float weights[6] = {0};
  const int64_t shape[] = {2, 3};
  ckpt_options *weights_only = NULL;
  ckpt_model *m = NULL;

  fresh_directory("null_args");
  statuses();
  free_functions();
  options();
  OK(ckpt_options_new(&weights_only));
  OK(ckpt_options_set_save_weights_only(weights_only, true));
  OK(ckpt_model_new(&m));
  OK(ckpt_model_add(m, "w", CKPT_DTYPE_F32, 2, shape, NULL, weights));
  session_creation(weights_only);
  session(weights_only, m);
  model();
  conversion();
  keras();
  reader(m);

  /* A success leaves the last message, and an error without errno says 0. */
  CHECK(strcmp(ckpt_last_error(), "ckpt_reader_verify: reader is NULL") == 0);
  CHECK(ckpt_last_os_error() == 0);
  ckpt_model_free(m);
  ckpt_options_free(weights_only);
  return 0;
}
