/* The benchmark's program for tensors on a device, which is the double of CUDA in tests/cuda: what a save of them takes, and
 * what it is made of, the copy to the host and the save of the same bytes from there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt_cuda.h"
#include "worker.h"

static cudaStream_t stream;
static ckpt_model *on_host, *on_device;

static void check(ckpt_status status, const char *what) {
  if (status == CKPT_OK) return;
  fprintf(stderr, "%s\n", ckpt_last_error());
  fail(what);
}

static void cuda(cudaError_t error, const char *what) {
  if (error != cudaSuccess) fail(what);
}

/* rate BYTES: what a copy moves in a second from now on. */
static void run_rate(int n, char **args) {
  (void)n;
  stub_set_copy_rate(strtod(args[0], NULL));
  printf("{}\n");
}

/* begin: puts the tensors on the device, too. */
static void run_begin(int n, char **args) {
  const int64_t shape[] = {(int64_t)(model.bytes_each / 4)};
  (void)n, (void)args;
  cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  check(ckpt_model_new(&on_host), "ckpt_model_new");
  check(ckpt_model_new(&on_device), "ckpt_model_new");
  for (size_t i = 0; i < model.count; i++) {
    char path[64];
    void *memory = NULL;
    path_of(i, path);
    cuda(cudaMalloc(&memory, model.bytes_each), "cudaMalloc");
    cuda(cudaMemcpy(memory, model.data[i], model.bytes_each, cudaMemcpyHostToDevice), "cudaMemcpy");
    check(ckpt_model_add(on_host, path, CKPT_DTYPE_F32, 1, shape, NULL, model.data[i]), path);
    check(ckpt_cuda_add(on_device, path, CKPT_DTYPE_F32, 1, shape, memory, stream), path);
  }
  printf("{}\n");
}

/* copy: all bytes that a save would copy, to pinned memory, which nobody looks at. */
static void run_copy(int n, char **args) {
  void *pinned = NULL, *memory = NULL;
  (void)n, (void)args;
  cuda(cudaHostAlloc(&pinned, CKPT_CUDA_BLOCK, 0), "cudaHostAlloc");
  cuda(cudaMalloc(&memory, CKPT_CUDA_BLOCK), "cudaMalloc");
  const double start = now(), cpu = cpu_now();
  for (size_t left = model.count * model.bytes_each; left > 0;) {
    const size_t some = left < CKPT_CUDA_BLOCK ? left : CKPT_CUDA_BLOCK;
    cuda(cudaMemcpyAsync(pinned, memory, some, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
    left -= some;
  }
  cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  printf("{\"secs\": %.9f, \"cpu\": %.9f}\n", now() - start, cpu_now() - cpu);
  cuda(cudaFree(memory), "cudaFree");
  cuda(cudaFreeHost(pinned), "cudaFreeHost");
}

static void save(const ckpt_model *of, const char *path) {
  const double start = now(), cpu = cpu_now();
  check(ckpt_model_save(of, path), path);
  printf("{\"secs\": %.9f, \"cpu\": %.9f}\n", now() - start, cpu_now() - cpu);
}

/* write FILE: a durable save of the same tensors in memory. */
static void run_write(int n, char **args) {
  (void)n;
  save(on_host, args[0]);
}

/* save FILE: one of those on the device. */
static void run_save(int n, char **args) {
  (void)n;
  save(on_device, args[0]);
}

int main(int argc, char **argv) {
  static const command commands[] = {{"begin", run_begin}, {"rate", run_rate}, {"copy", run_copy},
                                     {"write", run_write}, {"save", run_save}, {NULL, NULL}};
  static const command *const tables[] = {commands, NULL};
  return work(argc, argv, tables);
}
