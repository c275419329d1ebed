/* What the benchmark's programs share: the tensors they work on, clocks, and the loop that takes commands.
 *
 * A program makes its tensors when it starts, and then does one thing for each line of its standard input: a command
 * and its words. It answers with one line of JSON. So bench.py can let contestants of several programs and of Python
 * take turns, each in memory that has been touched, none paying for the start of a process. */
#ifndef CKPT_BENCH_WORKER_H
#define CKPT_BENCH_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The tensors of the model: float32, one axis, each in a malloc of its own. */
typedef struct tensors {
  size_t count;
  size_t bytes_each;
  unsigned char **data;
} tensors;

/* A command: prints one line of JSON. `args` are the words behind its name, `n` of them. */
typedef struct command {
  const char *name;
  void (*run)(int n, char **args);
} command;

extern tensors model;

/* usage: PROGRAM DIRECTORY TENSORS BYTES_EACH. Does the commands of standard input until its end, in DIRECTORY. */
int work(int argc, char **argv, const command *const *tables);

/* "layers/dense_I/vars/J" of a tensor, three to a layer. */
void path_of(size_t tensor, char out[64]);

/* Memory like the model's, touched, for what is loaded: each tensor begins `start` bytes behind the start of a page. */
tensors *memory_behind(size_t start);

/* Seconds of a clock, and of CPU time of all threads of this process. */
double now(void);
double cpu_now(void);

/* Answers with a failure and what errno says of it, and ends the program. */
void fail(const char *what);

#ifdef __cplusplus
}
#endif

#endif
