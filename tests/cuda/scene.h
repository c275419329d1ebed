/* A trainer on the double of CUDA: some tensors, all of which a kernel sets to the number of the step. */
#ifndef CKPT_TEST_CUDA_SCENE_H
#define CKPT_TEST_CUDA_SCENE_H

#include "check.h"

#include <ckpt_cuda.h>

#define CUDA(call) \
  ((call) == cudaSuccess ? (void)0 : check_failed(__FILE__, __LINE__, #call, "CUDA refused"))

#define TENSORS 6

/* Of several blocks, of one, small ones, none; in another order than in the file. */
static const struct {
  const char *path;
  int64_t size;
} tensors[TENSORS] = {
    {"layers/dense_1/vars/0", (3 << 18) + 5}, {"layers/dense/vars/0", 1 << 17}, {"layers/dense/vars/1", 33},
    {"layers/empty/vars/0", 0},               {"optimizer/vars/0", 1},          {"optimizer/vars/1", (1 << 19) + 1},
};

typedef struct scene {
  cudaStream_t stream;
  float *memory[TENSORS];
  ckpt_model *model;
} scene;

static inline void fill(const scene *s, float value) {
  for (int i = 0; i < TENSORS; i++)
    if (tensors[i].size > 0)
      CUDA(stub_fill(s->memory[i], (size_t)tensors[i].size, value, s->stream));
}

static inline ckpt_status add_all(ckpt_model *model, scene *s) {
  ckpt_status status = CKPT_OK;
  for (int i = 0; i < TENSORS && status == CKPT_OK; i++)
    status = ckpt_cuda_add(model, tensors[i].path, CKPT_DTYPE_F32, 1, &tensors[i].size, s->memory[i], s->stream);
  return status;
}

static inline scene new_scene(void) {
  scene s = {NULL, {NULL}, NULL};
  CUDA(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
  for (int i = 0; i < TENSORS; i++) {
    void *memory = NULL;
    if (tensors[i].size > 0)
      CUDA(cudaMalloc(&memory, (size_t)tensors[i].size * sizeof(float)));
    s.memory[i] = (float *)memory;
  }
  OK(ckpt_model_new(&s.model));
  return s;
}

static inline void free_scene(scene *s) {
  CUDA(cudaStreamSynchronize(s->stream));
  ckpt_model_free(s->model);
  for (int i = 0; i < TENSORS; i++)
    if (s->memory[i] != NULL)
      CUDA(cudaFree(s->memory[i]));
  CUDA(cudaStreamDestroy(s->stream));
}

static inline ckpt *session_of(const char *file, ckpt_async kind) {
  ckpt_options *options = NULL;
  ckpt *session = NULL;
  OK(ckpt_options_new(&options));
  OK(ckpt_options_set_save_weights_only(options, true));
  OK(ckpt_options_set_async(options, kind));
  OK(ckpt_options_set_durability(options, CKPT_DURABILITY_NONE));
  OK(ckpt_new(file, options, &session));
  ckpt_options_free(options);
  return session;
}

static inline void due(ckpt *session, uint64_t epoch) {
  const ckpt_metric metrics[] = {{"val_loss", 0.5}};
  OK(ckpt_on_epoch_end(session, epoch, metrics, 1));
}

/* Whether every element of a file has this value. */
static inline bool holds(const char *file, float value) {
  ckpt_reader *reader = NULL;
  bool all = true;
  OK(ckpt_reader_open(file, &reader));
  for (int i = 0; i < TENSORS; i++) {
    const size_t n = (size_t)tensors[i].size;
    float *values = (float *)malloc(n * sizeof *values + 1);
    size_t index = 0;
    CHECK(values != NULL);
    OK(ckpt_reader_find(reader, tensors[i].path, &index));
    OK(ckpt_reader_read(reader, index, values, n * sizeof *values));
    for (size_t j = 0; j < n; j++)
      all = all && values[j] == value;
    free(values);
  }
  ckpt_reader_free(reader);
  return all;
}

#endif
