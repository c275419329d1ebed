/* What the binding makes of everything else: bytes come back where they were, on two devices and several streams; what
   CUDA refuses is told, and leaves nothing behind; sessions share a model, which may be freed under way. */
#include "scene.h"

/* Moves a tensor's bytes between the device and the host. */
static void move(float *device, float *host, int64_t n, cudaMemcpyKind kind, cudaStream_t stream) {
  const size_t bytes = (size_t)n * sizeof *host;
  void *pinned = NULL;
  if (n == 0)
    return;
  CUDA(cudaHostAlloc(&pinned, bytes, 0));
  if (kind == cudaMemcpyHostToDevice)
    memcpy(pinned, host, bytes);
  CUDA(cudaMemcpyAsync(kind == cudaMemcpyHostToDevice ? (void *)device : pinned,
                       kind == cudaMemcpyHostToDevice ? pinned : (void *)device, bytes, kind, stream));
  CUDA(cudaStreamSynchronize(stream));
  if (kind == cudaMemcpyDeviceToHost)
    memcpy(host, pinned, bytes);
  CUDA(cudaFreeHost(pinned));
}

/* Every element another value, other ones with each seed. */
static void number(const scene *s, int seed) {
  for (int i = 0; i < TENSORS; i++) {
    float *values = malloc((size_t)tensors[i].size * sizeof *values + 1);
    CHECK(values != NULL);
    for (int64_t j = 0; j < tensors[i].size; j++)
      values[j] = (float)(j * TENSORS + i + seed);
    move(s->memory[i], values, tensors[i].size, cudaMemcpyHostToDevice, s->stream);
    free(values);
  }
}

static bool numbered(const scene *s, int seed) {
  bool all = true;
  for (int i = 0; i < TENSORS; i++) {
    float *values = malloc((size_t)tensors[i].size * sizeof *values + 1);
    CHECK(values != NULL);
    move(s->memory[i], values, tensors[i].size, cudaMemcpyDeviceToHost, s->stream);
    for (int64_t j = 0; j < tensors[i].size; j++)
      all = all && values[j] == (float)(j * TENSORS + i + seed);
    free(values);
  }
  return all;
}

static ckpt_status load(const char *file, ckpt_model *model) {
  ckpt_reader *reader = NULL;
  ckpt_status status;
  OK(ckpt_reader_open(file, &reader));
  status = ckpt_reader_load(reader, model);
  ckpt_reader_free(reader);
  return status;
}

/* In other orders, too, so that what was read ahead is wrong. */
static void bytes_come_back_where_they_were(void) {
  static const char *const files[] = {"a.weights.h5", "b.safetensors", "b.weights.h5", "c.safetensors", "c.weights.h5"};
  scene s = new_scene();
  OK(add_all(s.model, &s));
  for (int i = 0; i < 5; i++) {
    number(&s, i);
    OK(ckpt_model_save(s.model, files[i]));
  }
  for (int i = 0; i < 5; i++) {
    fill(&s, -1); /* is over before the first byte comes */
    OK(load(files[i], s.model));
    CHECK(numbered(&s, i));
  }
  free_scene(&s);
}

static void devices_and_streams(void) {
  const int64_t n = (1 << 19) + 3;
  ckpt_model *model = NULL;
  cudaStream_t streams[4];
  float *memory[4], *values = malloc((size_t)n * sizeof *values);
  int device = -1;
  CHECK(values != NULL);
  OK(ckpt_model_new(&model));
  for (int i = 0; i < 4; i++) {
    char path[32];
    void *at = NULL;
    CUDA(cudaSetDevice(i % 2));
    CUDA(cudaStreamCreateWithFlags(&streams[i], 0));
    CUDA(cudaMalloc(&at, (size_t)n * sizeof(float)));
    memory[i] = at;
    snprintf(path, sizeof path, "layers/dense/vars/%d", i);
    OK(ckpt_cuda_add(model, path, CKPT_DTYPE_F32, 1, &n, memory[i], streams[i]));
  }
  CUDA(cudaSetDevice(1));
  for (int round = 0; round < 3; round++) {
    ckpt_reader *reader = NULL;
    for (int i = 0; i < 4; i++)
      CUDA(stub_fill(memory[i], (size_t)n, (float)(round * 4 + i), streams[i]));
    OK(ckpt_model_save(model, "devices.weights.h5"));
    OK(ckpt_reader_open("devices.weights.h5", &reader));
    for (size_t i = 0; i < 4; i++) {
      char path[32];
      size_t index = 0;
      snprintf(path, sizeof path, "layers/dense/vars/%d", (int)i);
      OK(ckpt_reader_find(reader, path, &index));
      OK(ckpt_reader_read(reader, index, values, (size_t)n * sizeof *values));
      for (int64_t j = 0; j < n; j++)
        CHECK(values[j] == (float)(round * 4 + (int)i));
    }
    ckpt_reader_free(reader);
  }
  CUDA(cudaGetDevice(&device));
  CHECK(device == 1); /* the thread's device is as it was */
  for (int after = 0;; after++) {
    stub_fail("cudaSetDevice", after);
    const ckpt_status status = ckpt_model_save(model, "devices.weights.h5");
    CHECK((status != CKPT_OK) == stub_failed());
    stub_fail(NULL, 0);
    if (status == CKPT_OK)
      break;
    CHECK(status == CKPT_E_IO && strstr(ckpt_last_error(), "cudaSetDevice: unknown error"));
    CUDA(cudaSetDevice(1));
  }
  ckpt_model_free(model);
  for (int i = 0; i < 4; i++) {
    CUDA(cudaFree(memory[i]));
    CUDA(cudaStreamDestroy(streams[i]));
  }
  CUDA(cudaSetDevice(0));
  free(values);
}

static void what_cuda_refuses(void) {
  static const char *const functions[] = {
      "cudaGetDevice",        "cudaStreamCreateWithFlags", "cudaStreamSynchronize", "cudaStreamWaitEvent",
      "cudaEventRecord",      "cudaEventSynchronize",      "cudaMemcpyAsync",       "cudaEventCreateWithFlags",
      "cudaHostAlloc",
  };
  scene s = new_scene();
  number(&s, 0);
  OK(add_all(s.model, &s));
  OK(ckpt_model_save(s.model, "whole.weights.h5"));
  for (size_t f = 0; f < sizeof functions / sizeof *functions; f++)
    for (int kind = 0; kind < 3; kind++) {
      int after = 0;
      /* Every call of it, from the making of the model on: added, saved, loaded. */
      for (;; after++) {
        const int live = stub_live();
        ckpt_model *model = NULL;
        ckpt_status status;
        OK(ckpt_model_new(&model));
        if (kind == 0)
          stub_fail(functions[f], after);
        status = add_all(model, &s);
        if (status == CKPT_OK && kind > 0) {
          stub_fail(functions[f], after);
          if (kind == 1)
            status = ckpt_model_save(model, "refused.weights.h5");
          else
            status = load("whole.weights.h5", model);
        }
        CHECK((status != CKPT_OK) == stub_failed());
        if (status != CKPT_OK) {
          CHECK(status == CKPT_E_IO);
          CHECK(strstr(ckpt_last_error(), functions[f]) && strstr(ckpt_last_error(), "unknown error"));
          CHECK(strstr(ckpt_last_error(), "tensor '") || strstr(ckpt_last_error(), "device 0"));
        }
        stub_fail(NULL, 0);
        if (kind == 1 && status != CKPT_OK)
          CHECK(!exists("refused.weights.h5"));
        if (kind == 1) {
          remove("refused.weights.h5");
          OK(ckpt_model_save(model, "again.weights.h5")); /* all is well again */
        }
        if (kind > 0) {
          OK(load("whole.weights.h5", model));
          CHECK(numbered(&s, 0));
        }
        ckpt_model_free(model);
        CHECK(stub_live() == live);
        if (status == CKPT_OK)
          break;
      }
      printf("%s, %s: %d calls\n", functions[f], kind == 0 ? "added" : kind == 1 ? "saved" : "loaded", after);
    }
  free_scene(&s);
}

static void arguments(void) {
  const int64_t n = 4;
  float host;
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  CHECK(ckpt_cuda_add(NULL, "a", CKPT_DTYPE_F32, 1, &n, &host, NULL) == CKPT_E_INVALID_ARGUMENT);
  CHECK(ckpt_cuda_check(NULL, true) == CKPT_E_INVALID_ARGUMENT);
  CHECK(ckpt_cuda_wait(NULL, NULL) == CKPT_E_INVALID_ARGUMENT);
  FAILS(ckpt_cuda_add(model, NULL, CKPT_DTYPE_F32, 1, &n, &host, NULL), CKPT_E_INVALID_ARGUMENT, "path is NULL");
  FAILS(ckpt_cuda_add(model, "a", CKPT_DTYPE_F32, 1, &n, NULL, NULL), CKPT_E_INVALID_ARGUMENT, "'a': device_ptr is NULL");
  FAILS(ckpt_cuda_add(model, "a", CKPT_DTYPE_F32, 1, NULL, NULL, NULL), CKPT_E_INVALID_ARGUMENT, "shape is NULL");
  FAILS(ckpt_cuda_add(model, "a", (ckpt_dtype)13, 1, &n, &host, NULL), CKPT_E_INVALID_ARGUMENT, "dtype is 13");
  FAILS(ckpt_cuda_add(model, "a", CKPT_DTYPE_F32, 99, &n, &host, NULL), CKPT_E_INVALID_ARGUMENT, "rank");
  FAILS(ckpt_cuda_add(model, "../a", CKPT_DTYPE_F32, 1, &n, &host, NULL), CKPT_E_INVALID_ARGUMENT, "'../a'");
  OK(ckpt_cuda_add(model, "a", CKPT_DTYPE_F32, 1, &n, &host, NULL));
  FAILS(ckpt_cuda_add(model, "a", CKPT_DTYPE_F32, 1, &n, &host, NULL), CKPT_E_INVALID_ARGUMENT, "'a'");
  /* Not of the device: CUDA refuses the copy. */
  FAILS(ckpt_model_save(model, "host.weights.h5"), CKPT_E_IO,
        "tensor 'a': its fetch function, called for 16 bytes at 0, returned CKPT_E_IO: cudaMemcpyAsync: invalid argument");
  ckpt_model_free(model);
}

/* Two sessions borrow one model at once, which is freed under way; a third save ends before its end. */
static void shared_and_freed_under_way(void) {
  for (int round = 0; round < 20; round++) {
    scene s = new_scene();
    ckpt *first = session_of("first.weights.h5", CKPT_ASYNC_BORROW);
    ckpt *second = session_of("second.weights.h5", CKPT_ASYNC_BORROW);
    ckpt *third = session_of("third.weights.h5", CKPT_ASYNC_BORROW);
    OK(add_all(s.model, &s));
    number(&s, 7);
    OK(ckpt_model_save(s.model, "order.weights.h5"));
    number(&s, 8);
    due(first, 0), due(second, 0), due(third, 0);
    OK(ckpt_save(first, s.model));
    OK(ckpt_save(second, s.model));
    OK(ckpt_save(third, s.model));
    ckpt_model_free(s.model);
    OK(ckpt_cancel(third));
    OK(ckpt_wait(first));
    OK(ckpt_wait(second));
    const ckpt_status status = ckpt_wait(third);
    CHECK(status == CKPT_OK || status == CKPT_E_CANCELLED);
    for (int i = 0; i < TENSORS; i++)
      if (s.memory[i] != NULL)
        CUDA(cudaFree(s.memory[i])); /* the double knows if a copy is on its way */
    ckpt_free(first), ckpt_free(second), ckpt_free(third);
    CUDA(cudaStreamDestroy(s.stream));
    CHECK(stub_live() == 0);

    s = new_scene();
    OK(add_all(s.model, &s));
    OK(load(round % 2 ? "first.weights.h5" : "second.weights.h5", s.model));
    CHECK(numbered(&s, 8));
    free_scene(&s);
  }
}

int main(void) {
  arguments();
  bytes_come_back_where_they_were();
  devices_and_streams();
  what_cuda_refuses();
  CHECK(stub_live() == 0);
  shared_and_freed_under_way();
  CHECK(stub_live() == 0 && stub_pageable() == 0);
  return 0;
}
