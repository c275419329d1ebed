/* Processes of a test in C, and what they tell each other. */
#ifndef PROCESS_H
#define PROCESS_H

#include "check.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* A one-way signal between processes: what comes through the pipe, or its end. */
typedef struct wire {
  int ends[2];
} wire;

static inline wire new_wire(void) {
  wire w;
  CHECK(pipe(w.ends) == 0);
  return w;
}

static inline void tell(wire w) { CHECK(write(w.ends[1], "x", 1) == 1); }

static inline void hear(wire w) {
  char byte;
  CHECK(read(w.ends[0], &byte, 1) == 1);
}

static inline void drop_wire(wire w) { close(w.ends[0]), close(w.ends[1]); }

/* A process that runs `function`, and is fine when that returns. */
static inline pid_t process(void (*function)(void *), void *argument) {
  fflush(NULL);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    alarm(120);
    function(argument);
    _exit(0);
  }
  return pid;
}

static inline void ends(pid_t pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static inline void is_killed(pid_t pid) {
  int status;
  CHECK(kill(pid, SIGKILL) == 0);
  CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

/* How many names in a directory begin so. */
static inline int count(const char *directory, const char *beginning) {
  int n = 0;
  DIR *d = opendir(directory);
  CHECK(d != NULL);
  for (struct dirent *e; (e = readdir(d)) != NULL;)
    n += strncmp(e->d_name, beginning, strlen(beginning)) == 0;
  closedir(d);
  return n;
}

#endif
