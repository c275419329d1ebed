#include "cnn.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* What a digit becomes on its way through the network. */
typedef struct activations {
  float conv[SIZE][SIZE][FILTERS];
  float pooled[POOLED][POOLED][FILTERS];
  int from[POOLED][POOLED][FILTERS]; /* which of its window's four is the largest */
  float probabilities[CLASSES];
} activations;

uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

static void glorot(float *w, size_t n, float fans, uint32_t *random) {
  const float limit = sqrtf(6.0f / fans);
  for (size_t i = 0; i < n; i++) w[i] = limit * ((float)(next_random(random) >> 8) / 8388608.0f - 1.0f);
}

void cnn_init(cnn *net, uint32_t seed) {
  weights *w = &net->value;
  memset(net, 0, sizeof *net);
  net->learning_rate = 0.003f;
  glorot(&w->conv_kernel[0][0][0][0], KERNEL * KERNEL * FILTERS, KERNEL * KERNEL * (1 + FILTERS), &seed);
  glorot(&w->dense_kernel[0][0], FLAT * CLASSES, FLAT + CLASSES, &seed);
}

/* The pixel under a place of the kernel; zeros around the digit. */
static float pixel(const float *pixels, int y, int x) {
  return y < 0 || x < 0 || y >= SIZE || x >= SIZE ? 0.0f : pixels[y * SIZE + x];
}

static void forward(const weights *w, const float *pixels, activations *a) {
  for (int y = 0; y < SIZE; y++)
    for (int x = 0; x < SIZE; x++)
      for (int f = 0; f < FILTERS; f++) {
        float sum = w->conv_bias[f];
        for (int i = 0; i < KERNEL; i++)
          for (int j = 0; j < KERNEL; j++) sum += w->conv_kernel[i][j][0][f] * pixel(pixels, y + i - 1, x + j - 1);
        a->conv[y][x][f] = sum > 0.0f ? sum : 0.0f;
      }
  for (int y = 0; y < POOLED; y++)
    for (int x = 0; x < POOLED; x++)
      for (int f = 0; f < FILTERS; f++) {
        int best = 0;
        for (int k = 1; k < 4; k++)
          if (a->conv[2 * y + k / 2][2 * x + k % 2][f] > a->conv[2 * y + best / 2][2 * x + best % 2][f]) best = k;
        a->from[y][x][f] = best;
        a->pooled[y][x][f] = a->conv[2 * y + best / 2][2 * x + best % 2][f];
      }

  const float *flat = &a->pooled[0][0][0];
  float *p = a->probabilities, largest = -INFINITY, sum = 0.0f;
  memcpy(p, w->dense_bias, sizeof w->dense_bias);
  for (int i = 0; i < FLAT; i++)
    for (int c = 0; c < CLASSES; c++) p[c] += flat[i] * w->dense_kernel[i][c];
  for (int c = 0; c < CLASSES; c++) largest = fmaxf(largest, p[c]);
  for (int c = 0; c < CLASSES; c++) sum += p[c] = expf(p[c] - largest);
  for (int c = 0; c < CLASSES; c++) p[c] /= sum;
}

void cnn_predict(const cnn *net, const float *pixels, float probabilities[CLASSES]) {
  activations a;
  forward(&net->value, pixels, &a);
  memcpy(probabilities, a.probabilities, sizeof a.probabilities);
}

float cnn_learn(cnn *net, const float *pixels, int label, int batch) {
  const weights *w = &net->value;
  weights *g = &net->gradient;
  activations a;
  float d[CLASSES];
  forward(w, pixels, &a);
  for (int c = 0; c < CLASSES; c++) {
    d[c] = (a.probabilities[c] - (c == label ? 1.0f : 0.0f)) / (float)batch;
    g->dense_bias[c] += d[c];
  }
  for (int y = 0; y < POOLED; y++)
    for (int x = 0; x < POOLED; x++)
      for (int f = 0; f < FILTERS; f++) {
        const int i = (y * POOLED + x) * FILTERS + f;
        const int at_y = 2 * y + a.from[y][x][f] / 2, at_x = 2 * x + a.from[y][x][f] % 2;
        float back = 0.0f;
        for (int c = 0; c < CLASSES; c++) {
          g->dense_kernel[i][c] += a.pooled[y][x][f] * d[c];
          back += w->dense_kernel[i][c] * d[c];
        }
        if (a.pooled[y][x][f] == 0.0f) continue; /* relu */
        g->conv_bias[f] += back;
        for (int k = 0; k < KERNEL; k++)
          for (int j = 0; j < KERNEL; j++)
            g->conv_kernel[k][j][0][f] += back * pixel(pixels, at_y + k - 1, at_x + j - 1);
      }
  return -logf(fmaxf(a.probabilities[label], 1e-7f));
}

void cnn_step(cnn *net) {
  const float beta_1 = 0.9f, beta_2 = 0.999f, t = (float)++net->iteration;
  const float rate = net->learning_rate * sqrtf(1.0f - powf(beta_2, t)) / (1.0f - powf(beta_1, t));
  float *value = (float *)&net->value, *gradient = (float *)&net->gradient;
  float *momentum = (float *)&net->momentum, *velocity = (float *)&net->velocity;
  for (size_t i = 0; i < sizeof(weights) / sizeof(float); i++) {
    momentum[i] += (gradient[i] - momentum[i]) * (1.0f - beta_1);
    velocity[i] += (gradient[i] * gradient[i] - velocity[i]) * (1.0f - beta_2);
    value[i] -= rate * momentum[i] / (sqrtf(velocity[i]) + 1e-7f);
    gradient[i] = 0.0f;
  }
}
