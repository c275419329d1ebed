/* Trains a convolutional network on handwritten digits, and saves the best as a Keras model: no Python, no C++.
 *
 *   gzip -dc digits.csv.gz | train [DIRECTORY [PREDICTIONS]]
 *
 * The checkpoints go to DIRECTORY ("checkpoints"), where a training that was interrupted goes on. PREDICTIONS gets what the
 * best one gives for the last 360 digits, with which it is validated. */
#include <ckpt.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cnn.h"

#define CHECK(call)                                                    \
  do {                                                                 \
    if ((call) != CKPT_OK) {                                           \
      fprintf(stderr, "%s\n", ckpt_last_error());                      \
      exit(1);                                                         \
    }                                                                  \
  } while (0)

enum { MOST_DIGITS = 2000, VALIDATION = 360, BATCH = 32, EPOCHS = 12 };

static float pixels[MOST_DIGITS][PIXELS];
static int labels[MOST_DIGITS];
static cnn net;

static int read_digits(void) {
  int n = 0, number;
  while (n < MOST_DIGITS && scanf("%d", &number) == 1) {
    pixels[n][0] = (float)number / 16.0f;
    for (int i = 1; i < PIXELS; i++) {
      if (scanf(",%d", &number) != 1) return 0;
      pixels[n][i] = (float)number / 16.0f;
    }
    if (scanf(",%d", &labels[n]) != 1 || labels[n] < 0 || labels[n] >= CLASSES) return 0;
    n++;
  }
  return n;
}

static void bind(ckpt_keras *keras, size_t layer, const char *variable, float *value, float *momentum, float *velocity) {
  CHECK(ckpt_keras_bind(keras, layer, variable, CKPT_DTYPE_F32, NULL, value));
  CHECK(ckpt_keras_bind_optimizer(keras, "momentum", layer, variable, CKPT_DTYPE_F32, NULL, momentum));
  CHECK(ckpt_keras_bind_optimizer(keras, "velocity", layer, variable, CKPT_DTYPE_F32, NULL, velocity));
}

/* The network as a Keras model, which borrows its memory. */
static ckpt_model *describe(void) {
  ckpt_keras *keras;
  ckpt_model *model;
  size_t conv, dense;
  CHECK(ckpt_keras_new(&keras));
  CHECK(ckpt_keras_add(keras, "InputLayer", "{\"shape\": [8, 8, 1]}", NULL));
  CHECK(ckpt_keras_add(keras, "Conv2D",
                       "{\"filters\": 8, \"kernel_size\": 3, \"padding\": \"same\", \"activation\": \"relu\"}", &conv));
  CHECK(ckpt_keras_add(keras, "MaxPooling2D", "{}", NULL));
  CHECK(ckpt_keras_add(keras, "Flatten", "{}", NULL));
  CHECK(ckpt_keras_add(keras, "Dense", "{\"units\": 10, \"activation\": \"softmax\"}", &dense));
  CHECK(ckpt_keras_compile(keras, "Adam",
                           "{\"learning_rate\": 0.003, \"loss\": \"sparse_categorical_crossentropy\","
                           " \"metrics\": [\"accuracy\"]}"));
  weights *w = &net.value, *m = &net.momentum, *v = &net.velocity;
  bind(keras, conv, "kernel", &w->conv_kernel[0][0][0][0], &m->conv_kernel[0][0][0][0], &v->conv_kernel[0][0][0][0]);
  bind(keras, conv, "bias", w->conv_bias, m->conv_bias, v->conv_bias);
  bind(keras, dense, "kernel", &w->dense_kernel[0][0], &m->dense_kernel[0][0], &v->dense_kernel[0][0]);
  bind(keras, dense, "bias", w->dense_bias, m->dense_bias, v->dense_bias);
  CHECK(ckpt_keras_bind_optimizer(keras, "iteration", 0, NULL, CKPT_DTYPE_I32, NULL, &net.iteration));
  CHECK(ckpt_keras_bind_optimizer(keras, "learning_rate", 0, NULL, CKPT_DTYPE_F32, NULL, &net.learning_rate));
  CHECK(ckpt_keras_model(keras, &model));
  ckpt_keras_free(keras);
  return model;
}

/* Goes through the digits before `n`, in an order of the epoch's own; the mean loss. */
static double train(int n, uint64_t epoch) {
  static int order[MOST_DIGITS];
  uint32_t random = (uint32_t)epoch + 1;
  double loss = 0.0;
  for (int i = 0; i < n; i++) {
    const int j = (int)(next_random(&random) % (uint32_t)(i + 1));
    order[i] = order[j];
    order[j] = i;
  }
  for (int begin = 0; begin < n; begin += BATCH) {
    const int end = begin + BATCH < n ? begin + BATCH : n;
    for (int i = begin; i < end; i++) loss += cnn_learn(&net, pixels[order[i]], labels[order[i]], end - begin);
    cnn_step(&net);
  }
  return loss / n;
}

/* How well the network knows the digits from `begin` to `end`; writes what it gives, if anybody asks. */
static double evaluate(int begin, int end, double *accuracy, FILE *out) {
  double loss = 0.0, right = 0.0;
  for (int i = begin; i < end; i++) {
    float p[CLASSES];
    int best = 0;
    cnn_predict(&net, pixels[i], p);
    for (int c = 1; c < CLASSES; c++)
      if (p[c] > p[best]) best = c;
    loss -= log(fmax(p[labels[i]], 1e-7));
    right += best == labels[i];
    for (int c = 0; out != NULL && c < CLASSES; c++) fprintf(out, "%.9g%c", (double)p[c], c + 1 < CLASSES ? ',' : '\n');
  }
  *accuracy = right / (end - begin);
  return loss / (end - begin);
}

int main(int argc, char **argv) {
  const int n = read_digits(), first = n - VALIDATION;
  double accuracy;
  char path[4096];
  ckpt_options *options;
  ckpt *session;
  ckpt_resume_info from = {0, 0, false, 0.0, NULL};
  if (first <= 0) return fprintf(stderr, "standard input has too few digits\n"), 1;

  cnn_init(&net, 7);
  ckpt_model *model = describe();
  snprintf(path, sizeof path, "%s/{epoch:02d}-{val_loss:.3f}.keras", argc > 1 ? argv[1] : "checkpoints");
  CHECK(ckpt_options_new(&options));
  CHECK(ckpt_options_set_save_best_only(options, true)); /* by "val_loss" */
  CHECK(ckpt_options_set_verbose(options, 1));
  CHECK(ckpt_new(path, options, &session));
  ckpt_options_free(options);
  const ckpt_status resumed = ckpt_resume(session, model, &from);
  if (resumed != CKPT_E_NOT_FOUND) CHECK(resumed);

  for (uint64_t epoch = from.epoch; epoch < EPOCHS; epoch++) {
    const double loss = train(first, epoch);
    const double val_loss = evaluate(first, n, &accuracy, NULL);
    printf("Epoch %d/%d  loss %.4f  val_loss %.4f  val_acc %.4f\n", (int)epoch + 1, EPOCHS, loss, val_loss, accuracy);
    const ckpt_metric logs[] = {{"loss", loss}, {"val_loss", val_loss}, {"val_acc", accuracy}};
    CHECK(ckpt_on_epoch_end(session, epoch, logs, 3));
    if (ckpt_should_save(session)) CHECK(ckpt_save(session, model));
  }

  CHECK(ckpt_load_best(session, model));
  const char *best;
  CHECK(ckpt_best_path(session, &best));
  FILE *out = argc > 2 ? fopen(argv[2], "w") : NULL;
  evaluate(first, n, &accuracy, out);
  printf("The best is %s: %.1f%% of %d digits\n", best, 100.0 * accuracy, VALIDATION);
  if (argc > 2 && (out == NULL || fclose(out) != 0)) return fprintf(stderr, "cannot write %s\n", argv[2]), 1;
  ckpt_free(session);
  ckpt_model_free(model);
  return 0;
}
