/*
 * Compiled against the header of 0.1 (ckpt-0.1.h), run against the library of today: every function is called, every
 * struct is passed, and each has to do what that header promised. Never changed, only joined by later ones.
 */
#include "ckpt-0.1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition)                                                                            \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s\n  %s\n", __FILE__, __LINE__, #condition, ckpt_last_error());     \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static int lines;

static void count_line(enum ckpt_log_level level, const char *message, void *user) {
  MUST(level <= CKPT_LOG_DEBUG && message != NULL && user == &lines);
  lines++;
}

static ckpt_options *make_options(void) {
  ckpt_options *o = NULL;
  MUST(ckpt_options_new(&o) == CKPT_OK);
  MUST(ckpt_options_set_monitor(o, "val_acc") == CKPT_OK);
  MUST(ckpt_options_set_mode(o, CKPT_MODE_MAX) == CKPT_OK);
  MUST(ckpt_options_set_save_best_only(o, true) == CKPT_OK);
  MUST(ckpt_options_set_save_weights_only(o, true) == CKPT_OK);
  MUST(ckpt_options_set_save_freq(o, CKPT_SAVE_FREQ_EPOCH) == CKPT_OK);
  MUST(ckpt_options_set_initial_value_threshold(o, 0.125) == CKPT_OK);
  MUST(ckpt_options_set_min_delta(o, 0) == CKPT_OK);
  MUST(ckpt_options_set_verbose(o, 1) == CKPT_OK);
  MUST(ckpt_options_set_log(o, count_line, &lines) == CKPT_OK);
  MUST(ckpt_options_set_async(o, CKPT_ASYNC_OFF) == CKPT_OK);
  MUST(ckpt_options_set_durability(o, CKPT_DURABILITY_NONE) == CKPT_OK);
  MUST(ckpt_options_set_threads(o, 2) == CKPT_OK);
  MUST(ckpt_options_set_keep_last(o, 2) == CKPT_OK);
  MUST(ckpt_options_set_keep_best(o, 1) == CKPT_OK);
  MUST(ckpt_options_set_keep_every(o, 10) == CKPT_OK);
  return o;
}

static void train(ckpt *c, ckpt_model *model, float *weights) {
  const double accuracy[3] = {0.25, 0.75, 0.5};
  for (uint64_t epoch = 0; epoch < 3; epoch++) {
    const ckpt_metric logs[2] = {{"loss", 1.0}, {"val_acc", accuracy[epoch]}};
    MUST(ckpt_on_epoch_begin(c, epoch) == CKPT_OK);
    MUST(ckpt_on_train_batch_end(c, 0, logs, 1) == CKPT_OK);
    weights[0] = (float)epoch;
    MUST(ckpt_on_epoch_end(c, epoch, logs, 2) == CKPT_OK);
    MUST(ckpt_should_save(c) == (epoch < 2));
    MUST((ckpt_path(c) != NULL) == (epoch < 2));
    MUST(ckpt_save(c, model) == (epoch < 2 ? CKPT_OK : CKPT_E_STATE));
  }
  MUST(ckpt_wait_buffers(c) == CKPT_OK && ckpt_wait(c) == CKPT_OK);
}

static void read_back(const char *path, float *weights) {
  ckpt_reader *reader = NULL;
  ckpt_tensor_info info;
  size_t index = 99;
  memset(&info, 0xff, sizeof info);
  MUST(ckpt_reader_open(path, &reader) == CKPT_OK);
  MUST(ckpt_reader_len(reader) == 1);
  MUST(ckpt_reader_find(reader, "layers/dense/vars/0", &index) == CKPT_OK && index == 0);
  MUST(ckpt_reader_tensor(reader, index, &info) == CKPT_OK);
  MUST(strcmp(info.path, "layers/dense/vars/0") == 0 && info.dtype == CKPT_DTYPE_F32);
  MUST(info.rank == 2 && info.shape[0] == 2 && info.shape[1] == 3 && info.nbytes == 24);
  MUST(ckpt_reader_read(reader, index, weights, 24) == CKPT_OK);
  MUST(ckpt_reader_verify(reader) == CKPT_OK);
  ckpt_reader_free(reader);
}

int main(void) {
  const int64_t shape[2] = {2, 3}, strides[2] = {3, 1};
  float weights[6] = {0, 1, 2, 3, 4, 5}, back[6] = {0};
  const char *config = "{\"module\": \"keras\", \"class_name\": \"Sequential\", \"config\": {}}";
  const char *path = NULL;
  double best = 0;
  ckpt_stats stats;
  ckpt_options *options = make_options();
  ckpt_model *model = NULL;
  ckpt_reader *reader = NULL;
  ckpt *c = NULL;

  MUST(ckpt_version() >= CKPT_VERSION);
  MUST(strcmp(ckpt_status_name(CKPT_E_INTERNAL), "CKPT_E_INTERNAL") == 0);

  MUST(ckpt_model_new(&model) == CKPT_OK);
  MUST(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 2, shape, strides, weights) == CKPT_OK);
  MUST(ckpt_model_set_name(model, "layers/dense", "dense") == CKPT_OK);
  MUST(ckpt_model_set_config(model, config) == CKPT_OK);

  MUST(ckpt_new("{epoch:02d}.weights.h5", options, &c) == CKPT_OK);
  ckpt_options_free(options);
  MUST(ckpt_prepare(c, model) == CKPT_OK);
  train(c, model, weights);
  MUST(lines > 0);
  MUST(ckpt_best(c, &best) == CKPT_OK && best == 0.75);
  MUST(ckpt_best_path(c, &path) == CKPT_OK && strcmp(path, "02.weights.h5") == 0);
  memset(&stats, 0xff, sizeof stats);
  MUST(ckpt_last_stats(c, &stats) == CKPT_OK && stats.bytes > sizeof weights && stats.write_secs >= 0);
  read_back(path, back);
  MUST(back[0] == 1 && back[5] == 5);

  MUST(ckpt_model_set_data(model, "layers/dense/vars/0", back) == CKPT_OK);
  memset(back, 0, sizeof back);
  MUST(ckpt_load_best(c, model) == CKPT_OK && back[0] == 1 && back[5] == 5);

  MUST(ckpt_model_save(model, "model.keras") == CKPT_OK);
  memset(back, 0, sizeof back);
  MUST(ckpt_reader_open("model.keras", &reader) == CKPT_OK);
  MUST(ckpt_reader_load(reader, model) == CKPT_OK && back[0] == 1 && back[5] == 5);
  ckpt_reader_free(reader);

  MUST(ckpt_reader_open("not/there.keras", &reader) == CKPT_E_NOT_FOUND && ckpt_last_os_error() == 0);
  ckpt_free(c);
  ckpt_model_free(model);
  return 0;
}
