/* A double of the CUDA runtime in host memory, with asynchrony of its own: a thread for each stream, a queue of commands,
   events, slow copies in small steps, so that races show. What CUDA leaves undefined ends the program. */
#ifndef CKPT_TEST_CUDA_RUNTIME_H
#define CKPT_TEST_CUDA_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorUnknown = 999
} cudaError_t;

typedef enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 } cudaMemcpyKind;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;

#define cudaStreamNonBlocking 1u
#define cudaEventDisableTiming 2u

cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaMalloc(void **memory, size_t n);
cudaError_t cudaFree(void *memory);
cudaError_t cudaGetLastError(void);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, cudaMemcpyKind kind);
cudaError_t cudaHostAlloc(void **memory, size_t n, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
const char *cudaGetErrorString(cudaError_t error);

/* What CUDA does not have. */

/* A kernel: sets n floats on the device. */
cudaError_t stub_fill(float *memory, size_t n, float value, cudaStream_t stream);
/* Any other kernel. */
cudaError_t stub_call(void (*kernel)(void *), void *user, cudaStream_t stream);
/* A kernel that takes so long. */
cudaError_t stub_sleep(unsigned microseconds, cudaStream_t stream);
/* Bytes a second that a copy moves; 0: as many as it can. */
void stub_set_copy_rate(double rate);
/* cudaStreamWaitEvent() does nothing from now on. */
void stub_ignore_waits(bool on);
/* The call of this function that comes after `after` others fails, once; NULL: none does. */
void stub_fail(const char *function, int after);
/* Whether that has come to pass. */
bool stub_failed(void);
/* Copies from or to host memory that is not pinned, which the host has to wait for. */
int stub_pageable(void);
/* Streams, events and blocks of memory that have not been freed. */
int stub_live(void);

#ifdef __cplusplus
}
#endif

#endif
