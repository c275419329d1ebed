// Kernels on the double: what nvcc understands beyond C++, for a program whose LAUNCH() is defined here.
#pragma once

#include <cmath>

#include "cuda_runtime.h"

#define __global__
#define __device__

struct Index {
  unsigned x;
};
inline thread_local Index blockIdx{0}, blockDim{1}, threadIdx{0};

template <typename Function>
cudaError_t each(int n, cudaStream_t stream, Function function) {
  struct Kernel {
    int n;
    Function function;
  };
  const auto run = [](void *user) {
    const auto *kernel = static_cast<Kernel *>(user);
    for (blockIdx.x = 0; blockIdx.x < static_cast<unsigned>(kernel->n); ++blockIdx.x) kernel->function();
    delete kernel;
  };
  return stub_call(run, new Kernel{n, function}, stream);
}

#define LAUNCH(kernel, n, stream, ...) check(each(n, stream, [=] { kernel(__VA_ARGS__); }))
