/* Saves of changing models, in every mode and format, with resumes, loads and failures between: no memory, no mapping and
   no descriptor more at the end than before. One argument: how many saves (make torture asks for 100,000). */
#define _XOPEN_SOURCE 700
#include "check.h"

#include <dirent.h>
#include <malloc.h>
#include <unistd.h>

enum { most = 24, side = 40, saves_each = 10 };

static float memory[most][side * side];
static unsigned long long seed = 20241;

static unsigned below(unsigned n) {
  seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
  return (unsigned)(seed >> 33) % n;
}

/* What the process holds. */
struct held {
  size_t bytes, pages;
  int descriptors;
};

static struct held held(void) {
  struct held h = {0, 0, 0};
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
  const struct mallinfo2 info = mallinfo2();
  h.bytes = info.uordblks + info.hblkhd;
#endif
  FILE *statm = fopen("/proc/self/statm", "r");
  CHECK(statm != NULL && fscanf(statm, "%zu", &h.pages) == 1);
  fclose(statm);
  DIR *open = opendir("/proc/self/fd");
  CHECK(open != NULL);
  while (readdir(open) != NULL)
    h.descriptors++;
  closedir(open);
  return h;
}

static ckpt_model *model_of(unsigned tensors, bool whole) {
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  if (whole)
    OK(ckpt_model_set_config(
        model, "{\"module\": \"keras\", \"class_name\": \"Sequential\", \"config\": {\"name\": \"s\", \"layers\": []}}"));
  for (unsigned i = 0; i < tensors; i++) {
    char path[64];
    const int64_t shape[] = {1 + (int64_t)below(side), 1 + (int64_t)below(side)}, strides[] = {1, shape[0]};
    snprintf(path, sizeof path, "layers/dense_%u/vars/0", i);
    OK(ckpt_model_add(model, path, CKPT_DTYPE_F32, 2, shape, below(2) ? strides : NULL, memory[i]));
    FAILS(ckpt_model_add(model, path, CKPT_DTYPE_F32, 2, shape, NULL, memory[i]), CKPT_E_INVALID_ARGUMENT, "before");
  }
  return model;
}

/* A session of one mode and format, some saves, and what there is beside them. */
static int session(ckpt_async kind, const char *ending) {
  const bool whole = strcmp(ending, ".keras") == 0 || strcmp(ending, ".h5") == 0;
  char template[64];
  snprintf(template, sizeof template, "leak/{epoch}%s", ending);
  ckpt_options *options = NULL;
  OK(ckpt_options_new(&options));
  OK(ckpt_options_set_save_weights_only(options, !whole));
  OK(ckpt_options_set_async(options, kind));
  OK(ckpt_options_set_durability(options, CKPT_DURABILITY_NONE));
  OK(ckpt_options_set_keep_last(options, 2));
  OK(ckpt_options_set_max_shard_bytes(options, 8192));
  ckpt *s = NULL;
  OK(ckpt_new(template, options, &s));
  ckpt_options_free(options);
  ckpt_model *model = NULL;
  int made = 0;
  for (uint64_t epoch = 0; epoch < saves_each; epoch++) {
    const ckpt_metric logs[] = {{"val_loss", 1.0 + below(100)}, {"loss", 2.0}};
    ckpt_model_free(model);
    model = model_of(1 + below(most), whole);
    OK(ckpt_set_state(s, "rng", memory, below(6000)));
    OK(ckpt_on_epoch_end(s, epoch, logs, 2));
    OK(ckpt_save(s, model));
    made++;
    OK(ckpt_wait_buffers(s));
  }
  FAILS(ckpt_save(s, model), CKPT_E_STATE, "due");
  OK(ckpt_wait(s));
  /* The model is that of the newest. */
  ckpt_resume_info info;
  const void *state;
  size_t n;
  OK(ckpt_resume(s, model, &info));
  CHECK(info.epoch == saves_each);
  OK(ckpt_get_state(s, "rng", &state, &n));
  FAILS(ckpt_get_state(s, "none", &state, &n), CKPT_E_NOT_FOUND, "none");
  ckpt_reader *reader = NULL;
  OK(ckpt_reader_open(info.path, &reader));
  OK(ckpt_reader_verify(reader));
  OK(ckpt_reader_load(reader, model));
  ckpt_reader_free(reader);
  FAILS(ckpt_reader_open("leak", &reader), CKPT_E_IO, "leak");
  /* Where the file cannot be. */
  OK(ckpt_model_save(model, whole ? "leak/m.keras" : "leak/m.weights.h5"));
  FAILS(ckpt_model_save(model, "leak/m.unknown"), CKPT_E_UNSUPPORTED, "unknown");
  ckpt_free(s);
  ckpt_model_free(model);
  return made;
}

static int round_of_all(void) {
  static const char *const endings[] = {".keras", ".weights.h5", ".h5", ".weights.json", ".safetensors"};
  static const ckpt_async kinds[] = {CKPT_ASYNC_OFF, CKPT_ASYNC_COPY, CKPT_ASYNC_BORROW};
  int made = 0;
  for (int e = 0; e < 5; e++)
    for (int k = 0; k < 3; k++) {
      fresh_directory("leak");
      made += session(kinds[k], endings[e]);
    }
  return made;
}

int main(int argc, char **argv) {
  const int enough = argc > 1 ? atoi(argv[1]) : 1500;
  int made = 0;
  for (int i = 0; i < 3; i++)
    made += round_of_all();
  const struct held before = held();
  while (made < enough)
    made += round_of_all();
  /* What is kept once for all of them may grow with the largest; a leak grows with each of them. */
  const struct held after = held();
  printf("%d saves; %zd bytes, %zd pages, %d descriptors more\n", made, (ssize_t)(after.bytes - before.bytes),
         (ssize_t)(after.pages - before.pages), after.descriptors - before.descriptors);
  CHECK(after.descriptors == before.descriptors);
  CHECK(after.bytes < before.bytes + 65536);
#ifndef __SANITIZE_ADDRESS__ /* It keeps freed memory for a while. */
  CHECK(after.pages < before.pages + 20000);
#endif
  return 0;
}
