/* The machine's own limits: what a program without this library could at best do with the same bytes. */
#define _GNU_SOURCE
#include "speed.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 4 << 20, HUGE_PAGE = 2 << 20, MAX_THREADS = 64 };

/* Where each tensor of the model begins in the file that is to be loaded. */
static off_t *offsets;

static size_t total(void) { return model.count * model.bytes_each; }

static void write_all(int fd, const unsigned char *data, size_t bytes, off_t at) {
  while (bytes) {
    ssize_t n = pwrite(fd, data, bytes, at);
    if (n < 0 && errno != EINTR) fail("pwrite");
    if (n > 0) data += n, bytes -= (size_t)n, at += n;
  }
}

static void read_all(int fd, unsigned char *data, size_t bytes, off_t at) {
  while (bytes) {
    ssize_t n = pread(fd, data, bytes, at);
    if (n == 0 || (n < 0 && errno != EINTR)) fail("pread");
    if (n > 0) data += n, bytes -= (size_t)n, at += n;
  }
}

void write_tensors(int fd) {
  for (size_t i = 0; i < model.count; i++)
    write_all(fd, model.data[i], model.bytes_each, (off_t)(i * model.bytes_each));
}

static int opened(const char *name, int flags) {
  int fd = open(name, flags, 0666);
  if (fd < 0) fail(name);
  return fd;
}

static void answer(double since, double cpu_since) {
  printf("{\"secs\": %.9f, \"cpu\": %.9f}\n", now() - since, cpu_now() - cpu_since);
}

/* pwrite NAME [fsync]: to a new file. */
static void run_pwrite(int n, char **args) {
  double start = now(), cpu = cpu_now();
  int fd = opened(args[0], O_WRONLY | O_CREAT | O_EXCL);
  write_tensors(fd);
  if (n > 1 && fsync(fd)) fail("fsync");
  close(fd);
  answer(start, cpu);
}

/* direct NAME [again]: O_DIRECT to a new, preallocated file, or to what is in the file already, from one aligned block
 * of memory, then fsync. */
static void run_direct(int n, char **args) {
  static unsigned char *aligned;
  size_t whole = total() / 4096 * 4096;
  bool again = n > 1;
  if (!aligned) {
    if (posix_memalign((void **)&aligned, HUGE_PAGE, total() + 1)) fail("posix_memalign");
    madvise(aligned, total(), MADV_HUGEPAGE);
    for (size_t i = 0; i < model.count; i++)
      memcpy(aligned + i * model.bytes_each, model.data[i], model.bytes_each);
  }
  double start = now(), cpu = cpu_now();
  int fd = open(args[0], O_WRONLY | O_CREAT | (again ? 0 : O_EXCL) | O_DIRECT, 0666);
  if (fd < 0 && errno == EINVAL) {
    printf("{\"unsupported\": \"this file system refuses O_DIRECT\"}\n");
    return;
  }
  if (fd < 0) fail(args[0]);
  if (!again && fallocate(fd, 0, 0, (off_t)whole) && errno != EOPNOTSUPP) fail("fallocate");
  for (size_t at = 0; at < whole; at += BLOCK)
    write_all(fd, aligned + at, whole - at < BLOCK ? whole - at : BLOCK, (off_t)at);
  if (fsync(fd)) fail("fsync");
  close(fd);
  answer(start, cpu);
}

/* memcpy warm|cold: one thread, to memory that is reused, or that the system has still to give. */
static void run_memcpy(int n, char **args) {
  static unsigned char *warm;
  bool cold = !strcmp(args[0], "cold");
  unsigned char *to = warm;
  (void)n;
  if (cold || !warm) {
    to = mmap(NULL, total(), PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | (cold ? 0 : MAP_POPULATE), -1, 0);
    if (to == MAP_FAILED) fail("mmap");
    if (!cold) warm = to;
  }
  double start = now(), cpu = cpu_now();
  for (size_t i = 0; i < model.count; i++) memcpy(to + i * model.bytes_each, model.data[i], model.bytes_each);
  __asm__ volatile("" : : "r"(to) : "memory");
  answer(start, cpu);
  if (cold) munmap(to, total());
}

/* offsets BYTES...: where the tensors are in the file that the following commands load. */
static void run_offsets(int n, char **args) {
  if (!offsets) offsets = malloc((model.count + 1) * sizeof *offsets);
  if ((size_t)n != model.count) errno = EINVAL, fail("offsets");
  for (int i = 0; i < n; i++) offsets[i] = (off_t)strtoull(args[i], NULL, 10);
  printf("{}\n");
}

struct reading {
  int fd;
  tensors *into;
  atomic_size_t next;
};

static void *read_tensors(void *arg) {
  struct reading *r = arg;
  for (size_t i; (i = atomic_fetch_add(&r->next, 1)) < model.count;)
    read_all(r->fd, r->into->data[i], model.bytes_each, offsets[i]);
  return NULL;
}

/* pread NAME START THREADS: into memory that begins START bytes behind a page, a call a tensor. */
static void run_pread(int n, char **args) {
  pthread_t others[MAX_THREADS];
  int threads = atoi(args[2]), started = 0;
  struct reading r = {.into = memory_behind(strtoull(args[1], NULL, 10))};
  (void)n;
  double start = now(), cpu = cpu_now();
  r.fd = opened(args[0], O_RDONLY);
  while (started < threads - 1 && started < MAX_THREADS)
    if (pthread_create(&others[started++], NULL, read_tensors, &r)) fail("pthread_create");
  read_tensors(&r);
  while (started) pthread_join(others[--started], NULL);
  close(r.fd);
  answer(start, cpu);
}

/* mmap NAME START: maps the file and copies each tensor out of it, as loaders over mmap do. */
static void run_mmap(int n, char **args) {
  tensors *into = memory_behind(strtoull(args[1], NULL, 10));
  struct stat st;
  (void)n;
  double start = now(), cpu = cpu_now();
  int fd = opened(args[0], O_RDONLY);
  if (fstat(fd, &st)) fail("fstat");
  unsigned char *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (file == MAP_FAILED) fail("mmap");
  for (size_t i = 0; i < model.count; i++) memcpy(into->data[i], file + offsets[i], model.bytes_each);
  munmap(file, (size_t)st.st_size);
  close(fd);
  answer(start, cpu);
}

/* drop NAME: takes a file out of the page cache; answers which part of it stayed all the same. */
static void run_drop(int n, char **args) {
  struct stat st;
  int fd = opened(args[0], O_RDONLY);
  (void)n;
  if (fsync(fd) || fstat(fd, &st)) fail(args[0]);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  size_t pages = ((size_t)st.st_size + 4095) / 4096, here = 0;
  unsigned char *seen = malloc(pages + 1);
  void *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
  if (file == MAP_FAILED || mincore(file, (size_t)st.st_size, seen)) fail("mincore");
  for (size_t i = 0; i < pages; i++) here += seen[i] & 1;
  munmap(file, (size_t)st.st_size);
  free(seen);
  close(fd);
  printf("{\"stayed\": %.6f}\n", (double)here / (double)pages);
}

/* check START: whether what was loaded there is the model. */
static void run_check(int n, char **args) {
  tensors *into = memory_behind(strtoull(args[0], NULL, 10));
  bool same = true;
  (void)n;
  for (size_t i = 0; i < model.count; i++) {
    same = same && !memcmp(into->data[i], model.data[i], model.bytes_each);
    memset(into->data[i], 0, model.bytes_each);
  }
  printf("{\"same\": %s}\n", same ? "true" : "false");
}

const command machine_commands[] = {
    {"pwrite", run_pwrite}, {"direct", run_direct}, {"memcpy", run_memcpy}, {"offsets", run_offsets},
    {"pread", run_pread},   {"mmap", run_mmap},     {"drop", run_drop},     {"check", run_check},
    {NULL, NULL},
};
