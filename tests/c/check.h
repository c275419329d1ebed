/* What the tests in C and C++ say with: the first thing that is not as it should be ends the program. */
#ifndef CHECK_H
#define CHECK_H

#include <ckpt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CHECK(condition) \
  ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition, ckpt_last_error()))

/* The call works. */
#define OK(call) check_status(__FILE__, __LINE__, #call, (call), CKPT_OK, "")

/* The call fails with this status, and the message says this. */
#define FAILS(call, status, text) check_status(__FILE__, __LINE__, #call, (call), status, text)

static inline void check_failed(const char *file, int line, const char *what, const char *more) {
  fprintf(stderr, "%s:%d: %s\n  last error: %s\n", file, line, what, more);
  exit(1);
}

static inline void check_status(const char *file, int line, const char *call, ckpt_status got, ckpt_status expected,
                                const char *text) {
  char what[1024];
  const char *message = ckpt_last_error();
  size_t name = strcspn(call, "(");
  if (got != expected) {
    snprintf(what, sizeof what, "%s is %s, not %s", call, ckpt_status_name(got), ckpt_status_name(expected));
    check_failed(file, line, what, message);
  }
  if (got == CKPT_OK)
    return;
  if (strncmp(message, call, name) != 0 || message[name] != ':') {
    snprintf(what, sizeof what, "the message of %s does not begin with the function's name", call);
    check_failed(file, line, what, message);
  }
  if (strstr(message, text) == NULL) {
    snprintf(what, sizeof what, "the message of %s does not say \"%s\"", call, text);
    check_failed(file, line, what, message);
  }
}

/* An empty directory of this name in the current one. */
static inline void fresh_directory(const char *name) {
  char command[256];
  snprintf(command, sizeof command, "chmod -R u+w %s 2>/dev/null; rm -rf %s", name, name);
  CHECK(system(command) == 0);
  CHECK(mkdir(name, 0777) == 0);
}

/* A session that saves weights alone. */
static inline ckpt *weights_session(const char *file, ckpt_async kind, ckpt_backpressure backpressure) {
  ckpt_options *options = NULL;
  ckpt *session = NULL;
  OK(ckpt_options_new(&options));
  OK(ckpt_options_set_save_weights_only(options, true));
  OK(ckpt_options_set_async(options, kind));
  OK(ckpt_options_set_backpressure(options, backpressure));
  OK(ckpt_new(file, options, &session));
  ckpt_options_free(options);
  return session;
}

static inline bool exists(const char *path) {
  struct stat status;
  return stat(path, &status) == 0;
}

#endif
