/* When to save, beyond Keras: by time, by cost, aside where the value is NaN; and the best weights at the end. */
#include "check.h"

#include <math.h>

static float weights[4];
static char lines[4096];

static void take_line(ckpt_log_level level, const char *message, void *user) {
  char *end = lines + strlen(lines);
  (void)user;
  if (level <= CKPT_LOG_WARN)
    snprintf(end, sizeof lines - (size_t)(end - lines), "%s\n", message);
}

static ckpt_model *new_model(void) {
  static const int64_t shape[] = {4};
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 1, shape, NULL, weights));
  return model;
}

static ckpt_options *new_options(void) {
  ckpt_options *options = NULL;
  OK(ckpt_options_new(&options));
  OK(ckpt_options_set_save_weights_only(options, true));
  OK(ckpt_options_set_log(options, take_line, NULL));
  lines[0] = '\0';
  return options;
}

static ckpt *new_session(const char *filepath, ckpt_options *options) {
  ckpt *session = NULL;
  OK(ckpt_new(filepath, options, &session));
  ckpt_options_free(options);
  return session;
}

static bool due_after_epoch(ckpt *session, uint64_t epoch, double val_loss) {
  const ckpt_metric logs[] = {{"val_loss", val_loss}};
  OK(ckpt_on_epoch_end(session, epoch, logs, 1));
  return ckpt_should_save(session);
}

static bool due_after_batch(ckpt *session, uint64_t batch) {
  OK(ckpt_on_train_batch_end(session, batch, NULL, 0));
  return ckpt_should_save(session);
}

static void by_time(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  OK(ckpt_options_set_save_freq(options, CKPT_SAVE_FREQ_NEVER));
  OK(ckpt_options_set_save_every_secs(options, 1e-9));
  ckpt *session = new_session("when/{epoch}-{batch}.weights.h5", options);
  CHECK(due_after_batch(session, 6) && strcmp(ckpt_path(session), "when/1-7.weights.h5") == 0);
  CHECK(due_after_epoch(session, 0, 1.0) && strcmp(ckpt_path(session), "when/1-7.weights.h5") == 0);
  OK(ckpt_save(session, model));
  ckpt_free(session);

  options = new_options();
  OK(ckpt_options_set_save_freq(options, CKPT_SAVE_FREQ_NEVER));
  OK(ckpt_options_set_save_every_secs(options, 1e9));
  session = new_session("when/{epoch}-{batch}.weights.h5", options);
  CHECK(!due_after_batch(session, 0) && !due_after_epoch(session, 0, 1.0));
  ckpt_free(session);

  /* With save_best_only there is no place for what is not known to be better than the best. */
  options = new_options();
  OK(ckpt_options_set_save_best_only(options, true));
  OK(ckpt_options_set_save_every_secs(options, 1e-9));
  session = new_session("when/best.weights.h5", options);
  CHECK(!due_after_batch(session, 0) && strstr(lines, "save_last"));
  CHECK(due_after_epoch(session, 0, 1.0));
  OK(ckpt_save(session, model));
  lines[0] = '\0';
  CHECK(!due_after_epoch(session, 1, 2.0) && strcmp(lines, "") == 0);
  ckpt_free(session);
  ckpt_model_free(model);
}

/* With a stable name there is: the newest goes there alone, and the best stays. */
static void beside_the_best(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  ckpt_resume_info info;
  const char *path;
  double best;
  OK(ckpt_options_set_save_best_only(options, true));
  OK(ckpt_options_set_save_every_secs(options, 1e-9));
  OK(ckpt_options_set_save_last(options, "when/two-last.weights.h5"));
  OK(ckpt_options_set_keep_last(options, 1));
  ckpt *session = new_session("when/two-{val_loss}.weights.h5", options);
  weights[0] = 1;
  CHECK(due_after_epoch(session, 0, 0.5));
  OK(ckpt_save(session, model));
  weights[0] = 2;
  CHECK(due_after_batch(session, 0)); /* it has no val_loss */
  OK(ckpt_save(session, model));
  weights[0] = 3;
  CHECK(due_after_epoch(session, 1, 0.75) && strstr(ckpt_path(session), "when/two-last.weights.h5"));
  OK(ckpt_save(session, model));
  OK(ckpt_best_path(session, &path));
  OK(ckpt_best(session, &best));
  CHECK(strcmp(path, "when/two-0.5.weights.h5") == 0 && exists(path) && best == 0.5);
  OK(ckpt_load_best(session, model));
  CHECK(weights[0] == 1);
  OK(ckpt_resume(session, model, &info)); /* from the newest */
  CHECK(weights[0] == 3 && info.epoch == 2 && info.best == 0.5);
  OK(ckpt_best_path(session, &path));
  CHECK(strcmp(path, "when/two-0.5.weights.h5") == 0);
  ckpt_free(session);
  ckpt_model_free(model);
  CHECK(strcmp(lines, "") == 0);
}

static void by_cost(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  OK(ckpt_options_set_save_freq(options, CKPT_SAVE_FREQ_NEVER));
  OK(ckpt_options_set_overhead_budget(options, 1e-9));
  OK(ckpt_options_set_mtbf(options, 1e9));
  ckpt *session = new_session("when/{batch}.weights.h5", options);
  CHECK(due_after_batch(session, 0)); /* to be measured */
  CHECK(due_after_batch(session, 1)); /* it was not made */
  OK(ckpt_save(session, model));
  for (uint64_t batch = 2; batch < 100; batch++)
    CHECK(!due_after_batch(session, batch));
  ckpt_free(session);
  ckpt_model_free(model);
}

/* What is aside is never the best, never removed, never resumed from. */
static void aside(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  ckpt_resume_info info;
  const char *path;
  OK(ckpt_options_set_on_nan(options, CKPT_ON_NAN_ASIDE));
  OK(ckpt_options_set_keep_last(options, 1));
  ckpt *session = new_session("when/n{epoch}.weights.h5", options);
  for (uint64_t epoch = 0; epoch < 4; epoch++) {
    weights[0] = (float)epoch;
    CHECK(due_after_epoch(session, epoch, epoch % 2 ? (double)NAN : (double)epoch + 1));
    OK(ckpt_save(session, model));
  }
  CHECK(exists("when/n1.weights.h5") && exists("when/n3.weights.h5")); /* the best, the newest */
  CHECK(exists("when/n2.nan.weights.h5") && exists("when/n4.nan.weights.h5"));
  OK(ckpt_best_path(session, &path));
  CHECK(strcmp(path, "when/n1.weights.h5") == 0);
  ckpt_free(session);

  /* Where the template could have written it, too. */
  options = new_options();
  OK(ckpt_options_set_on_nan(options, CKPT_ON_NAN_ASIDE));
  session = new_session("when/x{val_loss}.weights.h5", options);
  weights[0] = 7;
  CHECK(due_after_epoch(session, 0, 0.5));
  OK(ckpt_save(session, model));
  weights[0] = 8;
  CHECK(due_after_epoch(session, 1, (double)NAN));
  CHECK(strcmp(ckpt_path(session), "when/xnan.nan.weights.h5") == 0);
  OK(ckpt_save(session, model));
  OK(ckpt_resume(session, model, &info));
  CHECK(info.epoch == 1 && weights[0] == 7);
  ckpt_free(session);
  ckpt_model_free(model);
}

static void nan_skipped_or_as_keras(void) {
  ckpt_options *options = new_options();
  double best;
  ckpt *session = new_session("when/skip.weights.h5", options);
  CHECK(!due_after_epoch(session, 0, (double)NAN) && strstr(lines, "Epoch 1: val_loss is NaN"));
  CHECK(due_after_epoch(session, 1, 1.0));
  ckpt_free(session);

  ckpt_model *model = new_model();
  options = new_options();
  OK(ckpt_options_set_on_nan(options, CKPT_ON_NAN_KERAS));
  OK(ckpt_options_set_save_best_only(options, true));
  session = new_session("when/keras.weights.h5", options);
  CHECK(due_after_epoch(session, 0, (double)NAN));
  OK(ckpt_save(session, model));
  OK(ckpt_best(session, &best));
  CHECK(isnan(best) && !due_after_epoch(session, 1, 1.0));
  ckpt_free(session);
  ckpt_model_free(model);
}

static void the_best_at_the_end(ckpt_async kind) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  OK(ckpt_options_set_restore_best(options, true));
  OK(ckpt_options_set_async(options, kind));
  ckpt *session = new_session("when/end{epoch}.weights.h5", options);
  FAILS(ckpt_on_train_end(session, NULL), CKPT_E_INVALID_ARGUMENT, "model is NULL");
  weights[0] = 42;
  OK(ckpt_on_train_end(session, model));
  CHECK(weights[0] == 42 && strstr(lines, "restore_best: no save stands"));
  for (uint64_t epoch = 0; epoch < 3; epoch++) {
    OK(ckpt_wait_buffers(session));
    weights[0] = (float)epoch;
    CHECK(due_after_epoch(session, epoch, epoch == 1 ? 0.5 : 1.0));
    OK(ckpt_save(session, model));
  }
  CHECK(due_after_epoch(session, 3, 2.0));
  OK(ckpt_on_train_end(session, model));
  CHECK(weights[0] == 1 && !ckpt_should_save(session)); /* forgotten, as by every event */
  ckpt_free(session);

  session = new_session("when/end{epoch}.weights.h5", new_options());
  OK(ckpt_on_train_end(session, NULL));
  OK(ckpt_on_train_end(session, model));
  CHECK(weights[0] == 1);
  ckpt_free(session);
  ckpt_model_free(model);
}

/* A failure that nobody has been told of comes first. */
static void a_failure_before_the_end(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  OK(ckpt_options_set_restore_best(options, true));
  OK(ckpt_options_set_async(options, CKPT_ASYNC_COPY));
  ckpt *session = new_session("when/fail/{epoch}.weights.h5", options);
  weights[0] = 1;
  CHECK(due_after_epoch(session, 0, 1.0));
  OK(ckpt_save(session, model));
  OK(ckpt_wait(session));
  CHECK(mkdir("when/fail/2.weights.h5", 0777) == 0);
  CHECK(due_after_epoch(session, 1, 0.5));
  OK(ckpt_save(session, model));
  weights[0] = 2;
  FAILS(ckpt_on_train_end(session, model), CKPT_E_IO, "when/fail/2.weights.h5");
  CHECK(weights[0] == 2);
  OK(ckpt_on_train_end(session, model));
  CHECK(weights[0] == 1);
  ckpt_free(session);
  ckpt_model_free(model);
}

int main(void) {
  fresh_directory("when");
  by_time();
  beside_the_best();
  by_cost();
  aside();
  nan_skipped_or_as_keras();
  the_best_at_the_end(CKPT_ASYNC_OFF);
  the_best_at_the_end(CKPT_ASYNC_COPY);
  the_best_at_the_end(CKPT_ASYNC_BORROW);
  a_failure_before_the_end();
  return 0;
}
