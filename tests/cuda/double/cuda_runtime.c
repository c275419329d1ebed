/* See cuda_runtime.h. One lock for all queues: what runs outside of it is the moving of bytes. */
#define _POSIX_C_SOURCE 200809L
#include "cuda_runtime.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEVICES 2
#define STEP ((size_t)32 << 10) /* bytes that are moved as one */

typedef enum what { COPY, FILL, CALL, SLEEP, RECORD, WAIT, END } what;

typedef struct command {
  what what;
  char *dst;
  const char *src;
  size_t n; /* bytes, or microseconds */
  float value;
  void (*call)(void *);
  cudaEvent_t event;
  unsigned long turn; /* of the event */
  struct command *next;
} command;

struct CUstream_st {
  int device;
  pthread_t thread;
  command *first, **last; /* the first is being done */
  double free_at;         /* when it has moved what it had to */
  struct CUstream_st *next;
};

struct CUevent_st {
  int device;
  unsigned long recorded, reached; /* turns */
  int pending;                     /* commands that name it */
  bool destroyed;                  /* it goes with the last of them */
};

typedef struct memory {
  char *begin;
  size_t n;
  int device; /* -1: pinned */
  struct memory *next;
} memory;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static cudaStream_t streams, defaults[DEVICES];
static memory *memories;
static int live, countdown, pageable;
static double rate;
static bool deaf, failed;
static const char *failing;
static __thread int current;

static void misuse(const char *what) {
  fprintf(stderr, "CUDA double: %s\n", what);
  abort();
}

/* Whether this call is to fail. */
static bool fails(const char *function) {
  bool now = failing != NULL && strcmp(failing, function) == 0 && countdown-- == 0;
  if (now)
    failing = NULL, failed = true;
  return now;
}

#define ENTER                        \
  pthread_mutex_lock(&lock);         \
  if (fails(__func__))               \
    return leave(cudaErrorUnknown)

static cudaError_t leave(cudaError_t error) {
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  return error;
}

static memory *find(const void *at, size_t n) {
  for (memory *m = memories; m != NULL; m = m->next)
    if ((const char *)at >= m->begin && (const char *)at + n <= m->begin + m->n)
      return m;
  return NULL;
}

static bool overlaps(const memory *m, const char *at, size_t n) { return at < m->begin + m->n && m->begin < at + n; }

static void nap(double seconds) {
  struct timespec t;
  t.tv_sec = (time_t)seconds;
  t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
  nanosleep(&t, NULL);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Moves bytes; copies of a stream one behind the other, at this speed. */
static void move(const command *c, double speed, double *free_at) {
  const double begin = *free_at > now() - 1e-3 ? *free_at : now();
  for (size_t at = 0; at < c->n; at += STEP) {
    const size_t n = c->n - at < STEP ? c->n - at : STEP;
    if (c->what == COPY)
      memcpy(c->dst + at, c->src + at, n);
    else
      for (size_t i = 0; i < n; i += sizeof c->value)
        memcpy(c->dst + at + i, &c->value, sizeof c->value);
    sched_yield();
  }
  if (c->what == COPY && speed > 0) {
    *free_at = begin + (double)c->n / speed;
    if (*free_at > now())
      nap(*free_at - now());
  }
}

static void *run(void *user) {
  cudaStream_t stream = user;
  pthread_mutex_lock(&lock);
  for (;;) {
    command *c = stream->first;
    if (c == NULL || (c->what == WAIT && c->event->reached < c->turn)) {
      pthread_cond_wait(&changed, &lock);
      continue;
    }
    const double speed = rate;
    pthread_mutex_unlock(&lock);
    if (c->what == COPY || c->what == FILL)
      move(c, speed, &stream->free_at);
    else if (c->what == CALL)
      c->call(c->dst);
    else if (c->what == SLEEP)
      nap((double)c->n * 1e-6);
    pthread_mutex_lock(&lock);
    if (c->what == RECORD)
      c->event->reached = c->turn;
    if (c->event != NULL && --c->event->pending == 0 && c->event->destroyed)
      free(c->event);
    stream->first = c->next;
    if (stream->first == NULL)
      stream->last = &stream->first;
    const bool over = c->what == END;
    free(c);
    pthread_cond_broadcast(&changed);
    if (over)
      break;
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

static cudaStream_t new_stream(int device) {
  cudaStream_t stream = calloc(1, sizeof *stream);
  if (stream == NULL)
    misuse("no memory");
  stream->device = device;
  stream->last = &stream->first;
  stream->next = streams;
  streams = stream;
  if (pthread_create(&stream->thread, NULL, run, stream) != 0)
    misuse("no thread");
  return stream;
}

/* The stream itself, or the default one of the thread's device; it is one of those that live. */
static cudaStream_t stream_of(cudaStream_t stream) {
  if (stream == NULL)
    return defaults[current] != NULL ? defaults[current] : (defaults[current] = new_stream(current));
  for (cudaStream_t s = streams; s != NULL; s = s->next)
    if (s == stream)
      return s;
  misuse("a stream that does not exist");
  return NULL;
}

static void enqueue(cudaStream_t stream, command of) {
  command *c = malloc(sizeof *c);
  if (c == NULL)
    misuse("no memory");
  *c = of;
  c->next = NULL;
  if (c->event != NULL)
    c->event->pending++;
  *stream->last = c;
  stream->last = &c->next;
}

/* Waits until a stream has nothing to do. */
static void drain(cudaStream_t stream) {
  while (stream->first != NULL)
    pthread_cond_wait(&changed, &lock);
}

cudaError_t cudaSetDevice(int device) {
  ENTER;
  if (device < 0 || device >= DEVICES)
    return leave(cudaErrorInvalidDevice);
  current = device;
  return leave(cudaSuccess);
}

cudaError_t cudaGetDevice(int *device) {
  ENTER;
  *device = current;
  return leave(cudaSuccess);
}

static cudaError_t allocate(void **out, size_t n, int device) {
  memory *m = malloc(sizeof *m);
  if (m == NULL || (m->begin = malloc(n + 1)) == NULL)
    misuse("no memory");
  m->n = n, m->device = device, m->next = memories;
  memories = m;
  live++;
  *out = m->begin;
  return leave(cudaSuccess);
}

static cudaError_t release(void *at, bool pinned) {
  memory **m = &memories, *gone;
  while (*m != NULL && (*m)->begin != at)
    m = &(*m)->next;
  if (*m == NULL || ((*m)->device < 0) != pinned)
    misuse("memory is freed that was not allocated so");
  for (cudaStream_t s = streams; s != NULL; s = s->next)
    for (command *c = s->first; c != NULL; c = c->next)
      if ((c->what == COPY || c->what == FILL) && (overlaps(*m, c->dst, c->n) || (c->src && overlaps(*m, c->src, c->n))))
        misuse("memory is freed while a stream needs it");
  gone = *m;
  *m = gone->next;
  free(gone->begin);
  free(gone);
  live--;
  return leave(cudaSuccess);
}

cudaError_t cudaMalloc(void **out, size_t n) {
  ENTER;
  return allocate(out, n, current);
}

cudaError_t cudaFree(void *at) {
  ENTER;
  return release(at, false);
}

cudaError_t cudaHostAlloc(void **out, size_t n, unsigned flags) {
  ENTER;
  (void)flags;
  return allocate(out, n, -1);
}

cudaError_t cudaFreeHost(void *at) {
  ENTER;
  return release(at, true);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind, cudaStream_t stream) {
  ENTER;
  const bool in = kind == cudaMemcpyHostToDevice;
  const memory *host = find(in ? src : dst, n), *device = find(in ? dst : src, n);
  command c = {COPY, dst, src, n, 0, NULL, NULL, 0, NULL};
  stream = stream_of(stream);
  if (device == NULL || device->device != stream->device)
    return leave(cudaErrorInvalidValue);
  enqueue(stream, c);
  if (host == NULL) {
    pageable++;
    pthread_cond_broadcast(&changed);
    drain(stream);
  }
  return leave(cudaSuccess);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(dst, src, n, kind, NULL);
  return error == cudaSuccess ? cudaStreamSynchronize(NULL) : error;
}

cudaError_t cudaGetLastError(void) { return cudaSuccess; }

cudaError_t cudaDeviceReset(void) { return cudaSuccess; }

cudaError_t stub_call(void (*kernel)(void *), void *user, cudaStream_t stream) {
  ENTER;
  command c = {CALL, user, NULL, 0, 0, kernel, NULL, 0, NULL};
  enqueue(stream_of(stream), c);
  return leave(cudaSuccess);
}

cudaError_t stub_fill(float *at, size_t n, float value, cudaStream_t stream) {
  ENTER;
  command c = {FILL, (char *)at, NULL, n * sizeof *at, value, NULL, NULL, 0, NULL};
  if (find(at, c.n) == NULL)
    misuse("a kernel writes where no memory is");
  enqueue(stream_of(stream), c);
  return leave(cudaSuccess);
}

cudaError_t stub_sleep(unsigned microseconds, cudaStream_t stream) {
  ENTER;
  command c = {SLEEP, NULL, NULL, microseconds, 0, NULL, NULL, 0, NULL};
  enqueue(stream_of(stream), c);
  return leave(cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  ENTER;
  (void)flags;
  live++;
  *stream = new_stream(current);
  return leave(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ENTER;
  drain(stream_of(stream));
  return leave(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  ENTER;
  command c = {END, NULL, NULL, 0, 0, NULL, NULL, 0, NULL};
  cudaStream_t *s = &streams;
  enqueue(stream_of(stream), c);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  pthread_join(stream->thread, NULL);
  pthread_mutex_lock(&lock);
  while (*s != stream)
    s = &(*s)->next;
  *s = stream->next;
  free(stream);
  live--;
  return leave(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  ENTER;
  (void)flags;
  *event = calloc(1, sizeof **event);
  if (*event == NULL)
    misuse("no memory");
  (*event)->device = current;
  live++;
  return leave(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  ENTER;
  command c = {RECORD, NULL, NULL, 0, 0, NULL, event, 0, NULL};
  stream = stream_of(stream);
  if (event->device != stream->device)
    return leave(cudaErrorInvalidResourceHandle);
  c.turn = ++event->recorded;
  enqueue(stream, c);
  return leave(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  ENTER;
  command c = {WAIT, NULL, NULL, 0, 0, NULL, event, event->recorded, NULL};
  (void)flags;
  if (!deaf)
    enqueue(stream_of(stream), c);
  return leave(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ENTER;
  for (const unsigned long turn = event->recorded; event->reached < turn;)
    pthread_cond_wait(&changed, &lock);
  return leave(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  ENTER;
  if (event->destroyed)
    misuse("an event is destroyed twice");
  event->destroyed = true;
  if (event->pending == 0)
    free(event);
  live--;
  return leave(cudaSuccess);
}

const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
  case cudaSuccess: return "no error";
  case cudaErrorInvalidValue: return "invalid argument";
  case cudaErrorMemoryAllocation: return "out of memory";
  case cudaErrorInvalidDevice: return "invalid device ordinal";
  case cudaErrorInvalidResourceHandle: return "invalid resource handle";
  default: return "unknown error";
  }
}

void stub_set_copy_rate(double of) {
  pthread_mutex_lock(&lock);
  rate = of;
  pthread_mutex_unlock(&lock);
}

void stub_ignore_waits(bool on) {
  pthread_mutex_lock(&lock);
  deaf = on;
  pthread_mutex_unlock(&lock);
}

void stub_fail(const char *function, int after) {
  pthread_mutex_lock(&lock);
  failing = function, countdown = after, failed = false;
  pthread_mutex_unlock(&lock);
}

bool stub_failed(void) {
  pthread_mutex_lock(&lock);
  const bool so = failed;
  pthread_mutex_unlock(&lock);
  return so;
}

int stub_pageable(void) {
  pthread_mutex_lock(&lock);
  const int n = pageable;
  pthread_mutex_unlock(&lock);
  return n;
}

int stub_live(void) {
  pthread_mutex_lock(&lock);
  const int n = live;
  pthread_mutex_unlock(&lock);
  return n;
}
