/* A small convolutional network and Adam, by hand: what Keras computes of
 *
 *   Input((8, 8, 1)), Conv2D(8, 3, padding="same", activation="relu"), MaxPooling2D(), Flatten(), Dense(10, "softmax")
 */
#ifndef CNN_H
#define CNN_H

#include <stdint.h>

enum { SIZE = 8, PIXELS = SIZE * SIZE, FILTERS = 8, KERNEL = 3, POOLED = SIZE / 2, FLAT = POOLED * POOLED * FILTERS, CLASSES = 10 };

/* The trainable variables, as Keras has them: row-major, the channels last. */
typedef struct weights {
  float conv_kernel[KERNEL][KERNEL][1][FILTERS];
  float conv_bias[FILTERS];
  float dense_kernel[FLAT][CLASSES];
  float dense_bias[CLASSES];
} weights;

typedef struct cnn {
  weights value, gradient;
  weights momentum, velocity; /* Adam's */
  int32_t iteration;
  float learning_rate;
} cnn;

void cnn_init(cnn *, uint32_t seed);

/* The probabilities of the classes of a digit of PIXELS numbers. */
void cnn_predict(const cnn *, const float *pixels, float probabilities[CLASSES]);

/* Adds the gradients of the cross-entropy of one of `batch` digits; gives its cross-entropy. */
float cnn_learn(cnn *, const float *pixels, int label, int batch);

/* A step along the gradients, which are zero again after it. */
void cnn_step(cnn *);

/* Numbers that look random, the same everywhere. */
uint32_t next_random(uint32_t *state);

#endif
