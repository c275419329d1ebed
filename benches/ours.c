/* What libckpt does with the model, through its C API. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "speed.h"

enum { MAX_SESSIONS = 16 };

static struct session {
  char name[32];
  ckpt *ckpt;
  bool async;
} sessions[MAX_SESSIONS];

void check(ckpt_status status, const char *what) {
  if (status == CKPT_OK) return;
  fprintf(stderr, "%s: %s\n", what, ckpt_last_error());
  printf("{\"error\": \"%s: %s\"}\n", what, ckpt_status_name(status));
  fflush(stdout);
  exit(1);
}

static struct session *slot(const char *name) {
  for (int i = 0; i < MAX_SESSIONS; i++)
    if (!strcmp(sessions[i].name, name)) return &sessions[i];
  printf("{\"error\": \"no session %s\"}\n", name);
  fflush(stdout);
  exit(1);
}

ckpt *session_named(const char *name) { return slot(name)->ckpt; }

void epoch_ends(ckpt *session) {
  static uint64_t epoch;
  check(ckpt_on_epoch_end(session, epoch++, NULL, 0), "ckpt_on_epoch_end");
}

/* A ckpt_model of these tensors. */
static ckpt_model *model_of(const tensors *t) {
  ckpt_model *m = NULL;
  char path[64];
  const int64_t shape[] = {(int64_t)(t->bytes_each / sizeof(float))};
  check(ckpt_model_new(&m), "ckpt_model_new");
  for (size_t i = 0; i < t->count; i++) {
    path_of(i, path);
    check(ckpt_model_add(m, path, CKPT_DTYPE_F32, 1, shape, NULL, t->data[i]), "ckpt_model_add");
    if (i % 3) continue;
    *strstr(path, "/vars/") = 0;
    check(ckpt_model_set_name(m, path, strrchr(path, '/') + 1), "ckpt_model_set_name");
  }
  check(ckpt_model_set_config(m, "{\"module\": \"keras\", \"class_name\": \"Sequential\", \"config\": {}}"),
        "ckpt_model_set_config");
  return m;
}

const ckpt_model *ours(void) {
  static ckpt_model *m;
  if (!m) m = model_of(&model);
  return m;
}

static ckpt_status set(ckpt_options *o, const char *key, uint64_t value) {
  if (!strcmp(key, "async")) return ckpt_options_set_async(o, (ckpt_async)value);
  if (!strcmp(key, "durability")) return ckpt_options_set_durability(o, (ckpt_durability)value);
  if (!strcmp(key, "keep_last")) return ckpt_options_set_keep_last(o, value);
  if (!strcmp(key, "recycle")) return ckpt_options_set_recycle(o, value != 0);
  return CKPT_E_UNSUPPORTED;
}

/* The last warning of the library: that it does otherwise than it was asked to. */
static char warning[256];

static void log_line(ckpt_log_level level, const char *message, void *user) {
  (void)user;
  if (level > CKPT_LOG_WARN) return;
  snprintf(warning, sizeof warning, "%s", message);
  for (char *c = warning; *c; c++)
    if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = '\'';
}

/* open NAME TEMPLATE [OPTION=NUMBER]...: a session. */
static void run_open(int n, char **args) {
  ckpt_options *o = NULL;
  struct session *s = slot("");
  *s = (struct session){.name = ""};
  check(ckpt_options_new(&o), "ckpt_options_new");
  check(ckpt_options_set_save_weights_only(o, !strstr(args[1], ".keras")), "ckpt_options_set_save_weights_only");
  for (int i = 2; i < n; i++) {
    char *value = strchr(args[i], '=');
    if (!value) check(CKPT_E_INVALID_ARGUMENT, args[i]);
    *value++ = 0;
    s->async = s->async || (!strcmp(args[i], "async") && *value != '0');
    ckpt_status status = set(o, args[i], strtoull(value, NULL, 10));
    if (status == CKPT_E_UNSUPPORTED) {
      printf("{\"unsupported\": \"the library does not take %s=%s\"}\n", args[i], value);
      ckpt_options_free(o);
      return;
    }
    check(status, args[i]);
  }
  warning[0] = 0;
  check(ckpt_options_set_log(o, log_line, NULL), "ckpt_options_set_log");
  check(ckpt_new(args[1], o, &s->ckpt), "ckpt_new");
  if (warning[0]) {
    printf("{\"unsupported\": \"%s\"}\n", warning);
    warning[0] = 0;
    ckpt_free(s->ckpt);
    ckpt_options_free(o);
    return;
  }
  snprintf(s->name, sizeof s->name, "%s", args[0]);
  ckpt_options_free(o);
  printf("{}\n");
}

/* close NAME */
static void run_close(int n, char **args) {
  struct session *s = slot(args[0]);
  (void)n;
  ckpt_free(s->ckpt);
  *s = (struct session){.name = ""};
  printf("{}\n");
}

/* Makes a save and waits for its end; answers what it took in all and, of one in the background, until ckpt_save
 * returned (the stall) and from there on. */
static void save(struct session *s, const ckpt_model *m) {
  epoch_ends(s->ckpt);
  double cpu = cpu_now(), start = now();
  check(ckpt_save(s->ckpt, m), "ckpt_save");
  double returned = now(), cpu_returned = cpu_now();
  check(ckpt_wait(s->ckpt), "ckpt_wait");
  double end = now(), cpu_end = cpu_now();
  if (warning[0]) fprintf(stderr, "libckpt: %s\n", warning);
  warning[0] = 0;
  printf("{\"secs\": %.9f, \"cpu\": %.9f", end - start, cpu_end - cpu);
  if (s->async)
    printf(", \"stall\": %.9f, \"background\": %.9f, \"cpu_background\": %.9f", returned - start, end - returned,
           cpu_end - cpu_returned);
  printf("}\n");
}

/* save NAME [new]: of a model that has been saved before, or of one that is new. */
static void run_save(int n, char **args) {
  if (n < 2) {
    save(slot(args[0]), ours());
    return;
  }
  ckpt_model *fresh = model_of(&model);
  save(slot(args[0]), fresh);
  ckpt_model_free(fresh);
}

/* save_path FILE: one file without a session, not timed: what the loads read. */
static void run_save_path(int n, char **args) {
  (void)n;
  check(ckpt_model_save(ours(), args[0]), "ckpt_model_save");
  printf("{}\n");
}

/* load FILE START: opens it, fills memory that begins START bytes behind a page, checksums verified, and closes it. */
static void run_load(int n, char **args) {
  static struct { size_t start; ckpt_model *model; } made[8];
  size_t behind = strtoull(args[1], NULL, 10);
  ckpt_reader *reader = NULL;
  int k = 0;
  (void)n;
  while (made[k].model && made[k].start != behind && k < 7) k++;
  if (!made[k].model) {
    made[k].start = behind;
    made[k].model = model_of(memory_behind(behind));
  }
  double start = now(), cpu = cpu_now();
  check(ckpt_reader_open(args[0], &reader), "ckpt_reader_open");
  check(ckpt_reader_load(reader, made[k].model), "ckpt_reader_load");
  ckpt_reader_free(reader);
  printf("{\"secs\": %.9f, \"cpu\": %.9f}\n", now() - start, cpu_now() - cpu);
}

/* A number of KiB from /proc/self/status, as bytes. */
static double status_bytes(const char *key) {
  char line[256];
  double kib = 0;
  FILE *f = fopen("/proc/self/status", "r");
  if (!f) fail("/proc/self/status");
  while (fgets(line, sizeof line, f))
    if (!strncmp(line, key, strlen(key))) kib = strtod(line + strlen(key), NULL);
  fclose(f);
  return kib * 1024;
}

/* memory NAME SAVES: the most memory of this process while it saves so many times, above what it has before. */
static void run_memory(int n, char **args) {
  ckpt *c = session_named(args[0]);
  const ckpt_model *m = ours();
  (void)n;
  int fd = open("/proc/self/clear_refs", O_WRONLY);
  if (fd < 0 || write(fd, "5", 1) != 1) fail("/proc/self/clear_refs");
  close(fd);
  double before = status_bytes("VmRSS:");
  for (int i = atoi(args[1]); i > 0; i--) {
    epoch_ends(c);
    check(ckpt_save(c, m), "ckpt_save");
    check(ckpt_wait(c), "ckpt_wait");
  }
  printf("{\"bytes\": %.0f}\n", status_bytes("VmHWM:") - before);
}

const command ours_commands[] = {
    {"open", run_open},           {"close", run_close}, {"save", run_save},
    {"save_path", run_save_path}, {"load", run_load},   {"memory", run_memory},
    {NULL, NULL},
};
