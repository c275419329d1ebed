/* Readers and other sessions beside a session that replaces, removes and recycles its files, each in a process. */
#define _XOPEN_SOURCE 700
#include "process.h"

#include <time.h>

enum { elements = 300000 };

static float *weights;
static ckpt_model *model;

static ckpt_options *options(ckpt_async kind) {
  ckpt_options *o = NULL;
  OK(ckpt_options_new(&o));
  OK(ckpt_options_set_save_weights_only(o, true));
  OK(ckpt_options_set_durability(o, CKPT_DURABILITY_NONE));
  OK(ckpt_options_set_keep_last(o, 2));
  OK(ckpt_options_set_recycle(o, true));
  OK(ckpt_options_set_async(o, kind));
  return o;
}

static void save(ckpt *s, uint64_t epoch) {
  OK(ckpt_wait_buffers(s));
  for (size_t i = 0; i < elements; i++)
    weights[i] = (float)epoch;
  OK(ckpt_on_epoch_end(s, epoch, NULL, 0));
  OK(ckpt_save(s, model));
}

/* All elements of an open checkpoint, which are those of one save. */
static float value_of(ckpt_reader *r) {
  static float got[elements];
  size_t index;
  OK(ckpt_reader_verify(r));
  OK(ckpt_reader_find(r, "w", &index));
  OK(ckpt_reader_read(r, index, got, sizeof got));
  for (size_t i = 1; i < elements; i++)
    CHECK(got[i] == got[0]);
  return got[0];
}

/* Reads whatever is there until company/end is. */
static void read_on(void *argument) {
  wire *w = argument;
  int reads = 0;
  while (!exists("company/end")) {
    DIR *d = opendir("company/files");
    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
      char path[512];
      ckpt_reader *r = NULL;
      if (strstr(e->d_name, ".weights.h5") == NULL)
        continue;
      snprintf(path, sizeof path, "company/files/%s", e->d_name);
      ckpt_status status = ckpt_reader_open(path, &r);
      CHECK(status == CKPT_OK || status == CKPT_E_NOT_FOUND);
      if (status != CKPT_OK)
        continue;
      const struct timespec time = {0, reads % 5 * 2000000};
      nanosleep(&time, NULL);
      float value = value_of(r);
      CHECK(strcmp(e->d_name, "last.weights.h5") == 0 || value + 1 == strtof(e->d_name, NULL));
      ckpt_reader_free(r);
      if (reads++ == 0)
        tell(*w);
    }
    closedir(d);
  }
}

static void readers_see_whole_files(const char *template, ckpt_async kind) {
  ckpt_options *o = options(kind);
  ckpt_reader *kept[4] = {NULL};
  ckpt *s = NULL;
  wire w = new_wire();
  fresh_directory("company");
  OK(ckpt_new(template, o, &s));
  CHECK(mkdir("company/files", 0777) == 0);
  pid_t pid = process(read_on, &w);
  for (uint64_t n = 0; n < 200; n++) {
    char path[64];
    ckpt_reader **mine = &kept[n % 4];
    save(s, n);
    OK(ckpt_wait(s));
    if (n == 0)
      hear(w);
    if (*mine != NULL)
      CHECK(value_of(*mine) == (float)(n - 4));
    ckpt_reader_free(*mine);
    *mine = NULL;
    snprintf(path, sizeof path, strchr(template, '{') ? "company/files/%d.weights.h5" : template, (int)n + 1);
    if (n % 3 != 2)
      OK(ckpt_reader_open(path, mine));
  }
  CHECK(mkdir("company/end", 0777) == 0);
  ends(pid);
  for (int i = 0; i < 4; i++)
    ckpt_reader_free(kept[i]);
  ckpt_free(s);
  CHECK(count("company/files", ".ckpt") == 0);
  ckpt_options_free(o);
  drop_wire(w);
}

/* Saves a hundred times, in a session that begins anew now and then, beside others that do the same. */
static void save_on(void *argument) {
  const char *template = argument;
  ckpt_options *o = options(strchr(template, 'x') ? CKPT_ASYNC_COPY : CKPT_ASYNC_OFF);
  ckpt *s = NULL;
  for (uint64_t n = 0; n < 100; n++) {
    if (n % 7 == 0) {
      ckpt_free(s);
      OK(ckpt_new(template, o, &s));
    }
    save(s, n);
  }
  OK(ckpt_wait(s));
  ckpt_free(s);
  ckpt_options_free(o);
}

static void neighbours(void) {
  static char *const templates[] = {"company/x-{epoch}.weights.h5", "company/run-{epoch}/w.weights.h5",
                                    "company/one.weights.h5"};
  static const char *const last[] = {"company/x-100.weights.h5", "company/run-100/w.weights.h5", "company/one.weights.h5"};
  pid_t pids[3];
  fresh_directory("company");
  for (int i = 0; i < 3; i++)
    pids[i] = process(save_on, templates[i]);
  for (int i = 0; i < 3; i++)
    ends(pids[i]);
  for (int i = 0; i < 3; i++) {
    ckpt_reader *r = NULL;
    OK(ckpt_reader_open(last[i], &r));
    CHECK(value_of(r) == 99);
    ckpt_reader_free(r);
  }
  CHECK(count("company", ".ckpt") == 0 && count("company/run-100", ".ckpt") == 0);
  /* A session that begins anew leaves what the former one wrote. */
  CHECK(count("company", "x-") == 2 + 2 * 14);
}

int main(void) {
  static const int64_t shape[] = {elements};
  alarm(300);
  weights = calloc(elements, sizeof *weights);
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "w", CKPT_DTYPE_F32, 1, shape, NULL, weights));
  readers_see_whole_files("company/files/{epoch}.weights.h5", CKPT_ASYNC_OFF);
  readers_see_whole_files("company/files/last.weights.h5", CKPT_ASYNC_OFF);
  readers_see_whole_files("company/files/{epoch}.weights.h5", CKPT_ASYNC_COPY);
  readers_see_whole_files("company/files/last.weights.h5", CKPT_ASYNC_BORROW);
  neighbours();
  ckpt_model_free(model);
  free(weights);
  return 0;
}
