/**
 * @file
 * Tensors in the memory of a GPU, for CUDA in C99 and C++; with CKPT_CUDA_HIP defined, for HIP.
 *
 *   ckpt_cuda_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 2, shape, device_ptr, stream);
 *   ...
 *   ckpt_save(session, model);            // the weights of this moment in the stream
 *   ...                                   // forward and backward passes
 *   ckpt_cuda_wait(session, stream);      // with CKPT_ASYNC_BORROW: before the weights change
 *   update<<<..., stream>>>(...);
 *
 * How bytes move. A save records an event in every stream that its tensors were added with, and the binding's own stream
 * of that device waits for it: what was enqueued before ckpt_save() is in the checkpoint, what is enqueued later is not
 * (with CKPT_ASYNC_BORROW: not before ckpt_cuda_wait()). From the device the bytes go through two blocks of pinned memory,
 * 2 MiB each: while the library takes one, the other is being filled. A load goes the same way back.
 *
 * Needs the CUDA runtime and POSIX threads. All of a model's streams, events and blocks are freed when it has been freed
 * and no save of it is under way.
 */
#ifndef CKPT_CUDA_H
#define CKPT_CUDA_H

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt.h"

#ifdef CKPT_CUDA_HIP
#include <hip/hip_runtime.h>
#define cudaError_t hipError_t
#define cudaEvent_t hipEvent_t
#define cudaStream_t hipStream_t
#define cudaSuccess hipSuccess
#define cudaEventDisableTiming hipEventDisableTiming
#define cudaMemcpyDeviceToHost hipMemcpyDeviceToHost
#define cudaMemcpyHostToDevice hipMemcpyHostToDevice
#define cudaStreamNonBlocking hipStreamNonBlocking
#define cudaEventCreateWithFlags hipEventCreateWithFlags
#define cudaEventDestroy hipEventDestroy
#define cudaEventRecord hipEventRecord
#define cudaEventSynchronize hipEventSynchronize
#define cudaFreeHost hipHostFree
#define cudaGetDevice hipGetDevice
#define cudaGetErrorString hipGetErrorString
#define cudaHostAlloc hipHostMalloc
#define cudaMemcpyAsync hipMemcpyAsync
#define cudaSetDevice hipSetDevice
#define cudaStreamCreateWithFlags hipStreamCreateWithFlags
#define cudaStreamDestroy hipStreamDestroy
#define cudaStreamSynchronize hipStreamSynchronize
#define cudaStreamWaitEvent hipStreamWaitEvent
#else
#include <cuda_runtime.h>
#endif

/* ---- What follows up to ckpt_cuda_add() is not for use. ---- */

/** What the library moves at once, at most. */
#define CKPT_CUDA_BLOCK ((size_t)2 << 20)

/** Tensors that begin in one block, at most. */
#define CKPT_CUDA_PIECES 256

struct ckpt_cuda;
struct ckpt_cuda_device;

/** A stream of the trainer's, and the event that a save or a load waits for. */
typedef struct ckpt_cuda_stream {
  cudaStream_t stream;
  cudaEvent_t reached;
  struct ckpt_cuda_stream *next;
} ckpt_cuda_stream;

/** A tensor on a device. */
typedef struct ckpt_cuda_tensor {
  struct ckpt_cuda *all;
  struct ckpt_cuda_device *device;
  const char *path; /* behind this */
  char *data;
  uint64_t nbytes;
  uint64_t hash;                   /* at the beginning of a save, where that is asked for */
  struct ckpt_cuda_tensor *behind; /* the one that came next in the last save */
  struct ckpt_cuda_tensor *next;
} ckpt_cuda_tensor;

/** A byte of a tensor; behind all of them where there is no tensor. */
typedef struct ckpt_cuda_place {
  ckpt_cuda_tensor *tensor;
  uint64_t offset;
} ckpt_cuda_place;

/** Pinned memory with bytes of one tensor or several, as they come in a file. */
typedef struct ckpt_cuda_block {
  char *memory;
  cudaEvent_t copied;   /* recorded behind the last copy from it or to it */
  ckpt_cuda_place from; /* what the first byte in it is that nobody has taken */
  size_t taken, used;   /* bytes */
} ckpt_cuda_block;

/** What a model has on one device. */
typedef struct ckpt_cuda_device {
  int number;
  cudaStream_t copies;
  ckpt_cuda_block blocks[2]; /* the first is being taken or filled, the second comes then */
  bool unsettled; /* the last end did not come to know whether all has been copied */
  ckpt_cuda_stream *streams;
  struct ckpt_cuda_device *next;
} ckpt_cuda_device;

/** What a model has. */
typedef struct ckpt_cuda {
  pthread_mutex_t lock; /* saves in the background and in other sessions use it, too */
  bool fenced, check;
  unsigned saves;         /* that have begun and not ended */
  ckpt_cuda_tensor *last; /* that was fetched in this save */
  ckpt_cuda_tensor *tensors;
  ckpt_cuda_device *devices;
} ckpt_cuda;

/** Sets ckpt_last_error(), and gives the status back. */
static inline ckpt_status ckpt_cuda_fail(ckpt_status status, const char *format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  ckpt_set_last_error(message);
  return status;
}

/** What a call of CUDA's came to. */
static inline ckpt_status ckpt_cuda_told(cudaError_t error, const char *call) {
  if (error == cudaSuccess)
    return CKPT_OK;
  return ckpt_cuda_fail(CKPT_E_IO, "%s: %s", call, cudaGetErrorString(error));
}

/** Makes a call of CUDA's, unless one before it failed. */
#define CKPT_CUDA_DO(status, function, arguments)           \
  do {                                                      \
    if ((status) == CKPT_OK)                                \
      (status) = ckpt_cuda_told(function arguments, #function); \
  } while (0)

/** Has the thread use a device; gives the one that it used, to be given back to ckpt_cuda_leave(). */
static inline ckpt_status ckpt_cuda_enter(int device, int *before) {
  ckpt_status status = CKPT_OK;
  CKPT_CUDA_DO(status, cudaGetDevice, (before));
  if (status == CKPT_OK && *before != device)
    CKPT_CUDA_DO(status, cudaSetDevice, (device));
  return status;
}

static inline ckpt_status ckpt_cuda_leave(int device, int before, ckpt_status status) {
  ckpt_status left = CKPT_OK;
  if (before != device)
    CKPT_CUDA_DO(left, cudaSetDevice, (before));
  return status == CKPT_OK ? left : status;
}

/** The place n bytes on; n is not more than the tensor has from there. */
static inline ckpt_cuda_place ckpt_cuda_forward(ckpt_cuda_place place, uint64_t n) {
  place.offset += n;
  if (place.offset == place.tensor->nbytes) {
    place.tensor = place.tensor->behind;
    place.offset = 0;
  }
  return place;
}

/** How many bytes of a tensor there are from a place on, `room` at most. */
static inline size_t ckpt_cuda_run(ckpt_cuda_place place, size_t room) {
  const uint64_t left = place.tensor->nbytes - place.offset;
  return left < room ? (size_t)left : room;
}

/** Has a block filled from a place on, as far as it is known what comes then. */
static inline ckpt_status ckpt_cuda_fill(ckpt_cuda_device *device, ckpt_cuda_block *block, ckpt_cuda_place place) {
  ckpt_status status = CKPT_OK;
  block->from = place;
  block->taken = block->used = 0;
  for (int pieces = 0; place.tensor != NULL && place.tensor->device == device && pieces < CKPT_CUDA_PIECES; pieces++) {
    const size_t n = ckpt_cuda_run(place, CKPT_CUDA_BLOCK - block->used);
    if (n == 0)
      break;
    CKPT_CUDA_DO(status, cudaMemcpyAsync, (block->memory + block->used, place.tensor->data + place.offset, n,
                                           cudaMemcpyDeviceToHost, device->copies));
    if (status != CKPT_OK)
      break;
    block->used += n;
    place = ckpt_cuda_forward(place, n);
  }
  if (block->used > 0)
    CKPT_CUDA_DO(status, cudaEventRecord, (block->copied, device->copies));
  if (status != CKPT_OK)
    block->used = 0;
  return status;
}

/** What comes behind a block's last byte, as far as that is known. */
static inline ckpt_cuda_place ckpt_cuda_behind(const ckpt_cuda_block *block) {
  ckpt_cuda_place place = block->from;
  for (size_t at = block->taken; at < block->used && place.tensor != NULL;) {
    const size_t n = ckpt_cuda_run(place, block->used - at);
    place = ckpt_cuda_forward(place, n);
    at += n;
  }
  return place;
}

static inline bool ckpt_cuda_has(const ckpt_cuda_block *block, ckpt_cuda_place place) {
  return block->taken < block->used && block->from.tensor == place.tensor && block->from.offset == place.offset;
}

/** The blocks change places. */
static inline void ckpt_cuda_turn(ckpt_cuda_device *device) {
  const ckpt_cuda_block first = device->blocks[0];
  device->blocks[0] = device->blocks[1];
  device->blocks[1] = first;
}

/** Has the first block hold bytes from a place on, copied, and the second what comes then, on its way. */
static inline ckpt_status ckpt_cuda_ready(ckpt_cuda_device *device, ckpt_cuda_place place) {
  ckpt_cuda_block *blocks = device->blocks;
  ckpt_status status = CKPT_OK;
  if (ckpt_cuda_has(&blocks[0], place))
    return CKPT_OK;
  ckpt_cuda_turn(device);
  if (!ckpt_cuda_has(&blocks[0], place))
    status = ckpt_cuda_fill(device, &blocks[0], place);
  if (status == CKPT_OK)
    status = ckpt_cuda_fill(device, &blocks[1], ckpt_cuda_behind(&blocks[0]));
  CKPT_CUDA_DO(status, cudaEventSynchronize, (blocks[0].copied));
  return status;
}

/** Forgets what is in the blocks of a device. */
static inline void ckpt_cuda_forget(ckpt_cuda_device *device) {
  for (int i = 0; i < 2; i++) {
    device->blocks[i].from.tensor = NULL;
    device->blocks[i].taken = device->blocks[i].used = 0;
  }
}

/** Notes which tensor is fetched now; NULL: none. */
static inline void ckpt_cuda_comes(ckpt_cuda *all, ckpt_cuda_tensor *tensor) {
  ckpt_cuda_tensor *last = all->last;
  all->last = tensor;
  if (last != NULL && last != tensor && last->behind != tensor) {
    /* A block may hold what was thought to come: where its bytes belong is no longer known. */
    last->behind = tensor;
    ckpt_cuda_forget(last->device);
  }
}

/** A ckpt_fetch_fn. */
static inline ckpt_status ckpt_cuda_fetch(void *dst, uint64_t offset, uint64_t nbytes, void *user) {
  ckpt_cuda_tensor *tensor = (ckpt_cuda_tensor *)user;
  ckpt_cuda_device *device = tensor->device;
  ckpt_cuda_place place = {tensor, offset};
  ckpt_cuda_block *block = &device->blocks[0];
  char *to = (char *)dst;
  int before = device->number;
  ckpt_status status;
  pthread_mutex_lock(&tensor->all->lock);
  ckpt_cuda_comes(tensor->all, tensor);
  status = ckpt_cuda_enter(device->number, &before);
  while (status == CKPT_OK && nbytes > 0) {
    status = ckpt_cuda_ready(device, place);
    if (status == CKPT_OK) {
      size_t n = ckpt_cuda_run(place, block->used - block->taken);
      n = n < nbytes ? n : (size_t)nbytes;
      memcpy(to, block->memory + block->taken, n);
      block->taken += n;
      block->from = ckpt_cuda_forward(block->from, n);
      place = ckpt_cuda_forward(place, n);
      to += n;
      nbytes -= n;
    }
  }
  if (status != CKPT_OK)
    ckpt_cuda_forget(device);
  status = ckpt_cuda_leave(device->number, before, status);
  pthread_mutex_unlock(&tensor->all->lock);
  return status;
}

/** A ckpt_put_fn. */
static inline ckpt_status ckpt_cuda_put(const void *src, uint64_t offset, uint64_t nbytes, void *user) {
  ckpt_cuda_tensor *tensor = (ckpt_cuda_tensor *)user;
  ckpt_cuda_device *device = tensor->device;
  ckpt_cuda_block *block = &device->blocks[0];
  int before = device->number;
  ckpt_status status;
  pthread_mutex_lock(&tensor->all->lock);
  status = ckpt_cuda_enter(device->number, &before);
  if (status == CKPT_OK && nbytes > CKPT_CUDA_BLOCK - block->used) {
    /* The other one, as soon as the device has read it. */
    ckpt_cuda_turn(device);
    if (block->used > 0)
      CKPT_CUDA_DO(status, cudaEventSynchronize, (block->copied));
    block->used = 0;
  }
  if (status == CKPT_OK) {
    memcpy(block->memory + block->used, src, (size_t)nbytes);
    CKPT_CUDA_DO(status, cudaMemcpyAsync, (tensor->data + offset, block->memory + block->used, (size_t)nbytes,
                                           cudaMemcpyHostToDevice, device->copies));
    CKPT_CUDA_DO(status, cudaEventRecord, (block->copied, device->copies));
    block->used += (size_t)nbytes;
  }
  status = ckpt_cuda_leave(device->number, before, status);
  pthread_mutex_unlock(&tensor->all->lock);
  return status;
}

/** The hash of what a tensor holds. */
static inline ckpt_status ckpt_cuda_hash(const ckpt_cuda_tensor *tensor, uint64_t *out) {
  ckpt_cuda_device *device = tensor->device;
  char *memory = device->blocks[0].memory;
  uint64_t hash = tensor->nbytes;
  int before = device->number;
  ckpt_status status = ckpt_cuda_enter(device->number, &before);
  ckpt_cuda_forget(device);
  for (uint64_t offset = 0; status == CKPT_OK && offset < tensor->nbytes; offset += CKPT_CUDA_BLOCK) {
    const uint64_t left = tensor->nbytes - offset;
    const size_t n = left < CKPT_CUDA_BLOCK ? (size_t)left : CKPT_CUDA_BLOCK;
    memset(memory + n - n % 8, 0, 8 - n % 8);
    CKPT_CUDA_DO(status, cudaMemcpyAsync,
                 (memory, tensor->data + offset, n, cudaMemcpyDeviceToHost, device->copies));
    CKPT_CUDA_DO(status, cudaStreamSynchronize, (device->copies));
    for (size_t i = 0; status == CKPT_OK && i < n; i += 8) {
      uint64_t word;
      memcpy(&word, memory + i, 8);
      hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
  }
  *out = hash;
  return ckpt_cuda_leave(device->number, before, status);
}

/** Hashes all tensors, and compares that with what they had, or notes it. */
static inline ckpt_status ckpt_cuda_hash_all(ckpt_cuda *all, bool compare) {
  ckpt_status status = CKPT_OK;
  for (ckpt_cuda_tensor *tensor = all->tensors; tensor != NULL && status == CKPT_OK; tensor = tensor->next) {
    uint64_t hash = 0;
    status = ckpt_cuda_hash(tensor, &hash);
    if (status == CKPT_OK && compare && hash != tensor->hash)
      return ckpt_cuda_fail(CKPT_E_STATE,
                            "tensor '%s' has changed on the device while it was being saved: call ckpt_cuda_wait() before "
                            "what writes it is enqueued", tensor->path);
    tensor->hash = hash;
  }
  return status;
}

/** Has the binding's streams wait for what has been enqueued in the trainer's. */
static inline ckpt_status ckpt_cuda_begin(ckpt_cuda_device *device) {
  int before = device->number;
  ckpt_status status = ckpt_cuda_enter(device->number, &before);
  if (device->unsettled)
    CKPT_CUDA_DO(status, cudaStreamSynchronize, (device->copies));
  for (ckpt_cuda_stream *of = device->streams; of != NULL && status == CKPT_OK; of = of->next) {
    CKPT_CUDA_DO(status, cudaEventRecord, (of->reached, of->stream));
    CKPT_CUDA_DO(status, cudaStreamWaitEvent, (device->copies, of->reached, 0));
  }
  ckpt_cuda_forget(device);
  return ckpt_cuda_leave(device->number, before, status);
}

/** Waits until nothing moves any more. */
static inline ckpt_status ckpt_cuda_end(ckpt_cuda_device *device) {
  int before = device->number;
  ckpt_status status = ckpt_cuda_enter(device->number, &before);
  CKPT_CUDA_DO(status, cudaStreamSynchronize, (device->copies));
  device->unsettled = status != CKPT_OK;
  ckpt_cuda_forget(device);
  return ckpt_cuda_leave(device->number, before, status);
}

/** A ckpt_fence_fn. */
static inline ckpt_status ckpt_cuda_fence(ckpt_fence_at at, void *user) {
  ckpt_cuda *all = (ckpt_cuda *)user;
  const bool begins = at == CKPT_FENCE_SAVE_BEGIN || at == CKPT_FENCE_LOAD_BEGIN;
  const bool saves = at == CKPT_FENCE_SAVE_BEGIN || at == CKPT_FENCE_SAVE_END;
  ckpt_status status = CKPT_OK;
  pthread_mutex_lock(&all->lock);
  ckpt_cuda_comes(all, NULL);
  for (ckpt_cuda_device *device = all->devices; device != NULL; device = device->next) {
    const ckpt_status of_this = begins ? ckpt_cuda_begin(device) : ckpt_cuda_end(device);
    if (of_this != CKPT_OK)
      status = ckpt_cuda_fail(of_this, "device %d: %s", device->number, ckpt_last_error());
  }
  if (status == CKPT_OK && saves && all->check)
    status = ckpt_cuda_hash_all(all, !begins || all->saves > 0);
  if (saves && begins && status == CKPT_OK)
    all->saves++;
  if (saves && !begins)
    all->saves--;
  pthread_mutex_unlock(&all->lock);
  return status;
}

static inline void ckpt_cuda_device_free(ckpt_cuda_device *device) {
  int before = device->number;
  ckpt_cuda_enter(device->number, &before);
  if (device->copies != NULL)
    cudaStreamSynchronize(device->copies);
  while (device->streams != NULL) {
    ckpt_cuda_stream *next = device->streams->next;
    cudaEventDestroy(device->streams->reached);
    free(device->streams);
    device->streams = next;
  }
  for (int i = 0; i < 2; i++) {
    if (device->blocks[i].copied != NULL)
      cudaEventDestroy(device->blocks[i].copied);
    if (device->blocks[i].memory != NULL)
      cudaFreeHost(device->blocks[i].memory);
  }
  if (device->copies != NULL)
    cudaStreamDestroy(device->copies);
  ckpt_cuda_leave(device->number, before, CKPT_OK);
  free(device);
}

/** A ckpt_release_fn. */
static inline void ckpt_cuda_free(void *user) {
  ckpt_cuda *all = (ckpt_cuda *)user;
  while (all->devices != NULL) {
    ckpt_cuda_device *next = all->devices->next;
    ckpt_cuda_device_free(all->devices);
    all->devices = next;
  }
  while (all->tensors != NULL) {
    ckpt_cuda_tensor *next = all->tensors->next;
    free(all->tensors);
    all->tensors = next;
  }
  pthread_mutex_destroy(&all->lock);
  free(all);
}

/** Memory of zeros, if there was no failure before. */
static inline void *ckpt_cuda_new(size_t n, ckpt_status *status) {
  void *memory = *status == CKPT_OK ? calloc(1, n) : NULL;
  if (*status == CKPT_OK && memory == NULL)
    *status = ckpt_cuda_fail(CKPT_E_IO, "no memory for %zu bytes", n);
  return memory;
}

/** What a model has, found or made. */
static inline ckpt_status ckpt_cuda_of(ckpt_model *model, ckpt_cuda **out) {
  static const char key[] = "ckpt_cuda.h 1";
  void *found = NULL;
  ckpt_status status = ckpt_model_owned(model, key, &found);
  if (status == CKPT_E_NOT_FOUND) {
    status = CKPT_OK;
    found = ckpt_cuda_new(sizeof(ckpt_cuda), &status);
    if (status != CKPT_OK)
      return status;
    pthread_mutex_init(&((ckpt_cuda *)found)->lock, NULL);
    status = ckpt_model_own(model, key, ckpt_cuda_free, found);
    if (status != CKPT_OK)
      ckpt_cuda_free(found);
  }
  if (status == CKPT_OK && !((ckpt_cuda *)found)->fenced) {
    status = ckpt_model_add_fence(model, ckpt_cuda_fence, found);
    ((ckpt_cuda *)found)->fenced = status == CKPT_OK;
  }
  *out = (ckpt_cuda *)found;
  return status;
}

/** What a model has on the thread's device, found or made. */
static inline ckpt_status ckpt_cuda_device_of(ckpt_cuda *all, ckpt_cuda_device **out) {
  ckpt_status status = CKPT_OK;
  ckpt_cuda_device *device;
  int number = 0;
  CKPT_CUDA_DO(status, cudaGetDevice, (&number));
  for (device = all->devices; status == CKPT_OK && device != NULL; device = device->next)
    if (device->number == number) {
      *out = device;
      return CKPT_OK;
    }
  device = (ckpt_cuda_device *)ckpt_cuda_new(sizeof *device, &status);
  if (device == NULL)
    return status;
  device->number = number;
  CKPT_CUDA_DO(status, cudaStreamCreateWithFlags, (&device->copies, cudaStreamNonBlocking));
  for (int i = 0; i < 2; i++) {
    ckpt_cuda_block *block = &device->blocks[i];
    CKPT_CUDA_DO(status, cudaEventCreateWithFlags, (&block->copied, cudaEventDisableTiming));
    void *memory = NULL;
    CKPT_CUDA_DO(status, cudaHostAlloc, (&memory, CKPT_CUDA_BLOCK + 8, 0)); /* the hash goes by words of 8 */
    block->memory = (char *)memory;
  }
  if (status != CKPT_OK) {
    ckpt_cuda_device_free(device);
    return status;
  }
  device->next = all->devices;
  all->devices = device;
  *out = device;
  return CKPT_OK;
}

/** Has saves and loads wait for a stream, too. */
static inline ckpt_status ckpt_cuda_heed(ckpt_cuda_device *device, cudaStream_t stream) {
  ckpt_status status = CKPT_OK;
  ckpt_cuda_stream *of;
  for (of = device->streams; of != NULL; of = of->next)
    if (of->stream == stream)
      return CKPT_OK;
  of = (ckpt_cuda_stream *)ckpt_cuda_new(sizeof *of, &status);
  if (of == NULL)
    return status;
  CKPT_CUDA_DO(status, cudaEventCreateWithFlags, (&of->reached, cudaEventDisableTiming));
  if (status != CKPT_OK) {
    free(of);
    return status;
  }
  of->stream = stream;
  of->next = device->streams;
  device->streams = of;
  return CKPT_OK;
}

/* ---- What is for use. ---- */

/**
 * Adds a tensor in the memory of the calling thread's device. In a file it is as one of ckpt_model_add(). No tensor has
 * been added after a failure; what CUDA refuses is CKPT_E_IO, and ckpt_last_error() says which call, and why.
 *
 * @param path, dtype, rank, shape  as in ckpt_model_add()
 * @param device_ptr  row-major, borrowed until the model has been freed and no save of it is under way: cudaFree() comes
 *                    after ckpt_wait_buffers(). NULL only if the tensor has no elements.
 * @param stream      of the calling thread's device: the one whose kernels write the tensor. Others that do, too, are the
 *                    caller's to join before ckpt_save() (cudaStreamWaitEvent()). Lives as long as the model.
 */
static inline ckpt_status ckpt_cuda_add(ckpt_model *model, const char *path, ckpt_dtype dtype, size_t rank,
                                        const int64_t *shape, void *device_ptr, cudaStream_t stream) {
  static const unsigned char sizes[] = {4, 8, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8, 1}; /* by dtype */
  ckpt_cuda *all = NULL;
  ckpt_cuda_device *device = NULL;
  ckpt_cuda_tensor *tensor;
  bool empty = rank > 32 || (rank > 0 && shape == NULL); /* for the library to refuse */
  ckpt_status status = ckpt_cuda_of(model, &all);
  if (status != CKPT_OK || path == NULL)
    return status != CKPT_OK ? status : ckpt_cuda_fail(CKPT_E_INVALID_ARGUMENT, "ckpt_cuda_add: path is NULL");
  for (size_t i = 0; !empty && i < rank; i++)
    empty = shape[i] == 0;
  if (device_ptr == NULL && !empty)
    return ckpt_cuda_fail(CKPT_E_INVALID_ARGUMENT, "ckpt_cuda_add: tensor '%s': device_ptr is NULL", path);
  pthread_mutex_lock(&all->lock);
  status = ckpt_cuda_device_of(all, &device);
  if (status == CKPT_OK)
    status = ckpt_cuda_heed(device, stream);
  tensor = (ckpt_cuda_tensor *)ckpt_cuda_new(sizeof *tensor + strlen(path) + 1, &status);
  if (status == CKPT_OK) {
    tensor->all = all;
    tensor->device = device;
    tensor->path = strcpy((char *)(tensor + 1), path);
    tensor->data = (char *)device_ptr;
    status = ckpt_model_add_source(model, path, dtype, rank, shape, ckpt_cuda_fetch, ckpt_cuda_put, tensor);
  }
  if (status == CKPT_OK) {
    /* The library has seen that it can be counted. */
    tensor->nbytes = sizes[dtype];
    for (size_t i = 0; i < rank; i++)
      tensor->nbytes *= (uint64_t)shape[i];
    tensor->next = all->tensors;
    all->tensors = tensor;
  } else {
    free(tensor);
    ckpt_cuda_fail(status, "ckpt_cuda_add: tensor '%s': %s", path, ckpt_last_error());
  }
  pthread_mutex_unlock(&all->lock);
  return status;
}

/**
 * Returns when what is enqueued from now on may write the tensors of all saves so far: with CKPT_ASYNC_BORROW, when they
 * have left the device; else at once. The stream runs on meanwhile: what it has to do already may read them.
 *
 * It is the host that waits: the bytes pass through its memory, and a callback in the stream
 * (cudaLaunchHostFunc()) must not wait for what another stream does.
 *
 * @param stream  the one whose kernels will write them
 * @return as of ckpt_wait_buffers(): the tensors may be written all the same
 */
static inline ckpt_status ckpt_cuda_wait(ckpt *session, cudaStream_t stream) {
  (void)stream; /* every copy has ended when the library's wait returns: nothing is left that it could wait for */
  return ckpt_wait_buffers(session);
}

/**
 * Has the saves of a model that begin from now on look whether a kernel wrote into a tensor that was being saved: they read
 * all tensors from the device three times, and fail with CKPT_E_STATE and the tensor's path where they have changed. Off by
 * default; for debugging.
 */
static inline ckpt_status ckpt_cuda_check(ckpt_model *model, bool on) {
  ckpt_cuda *all = NULL;
  ckpt_status status = ckpt_cuda_of(model, &all);
  if (status == CKPT_OK) {
    pthread_mutex_lock(&all->lock);
    if (all->saves > 0)
      status = ckpt_cuda_fail(CKPT_E_STATE, "ckpt_cuda_check: a save of the model is under way: ckpt_wait_buffers() first");
    else
      all->check = on;
    pthread_mutex_unlock(&all->lock);
  }
  return status;
}

#endif /* CKPT_CUDA_H */
