/* A model and a file that are not equal: floats of other widths, parts, groups that do not fit, other names, bytes that
   somebody has changed; and what a file holds beside its tensors. */
#include "check.h"

#define CONFIG "{\"module\": \"keras\", \"class_name\": \"Sequential\", \"config\": {\"name\": \"m\"}}"

static const int64_t two[] = {2}, four[] = {4};
static const char *const files[] = {"load/a.weights.h5", "load/a.keras"};

/* Two layers of two variables each. */
typedef struct weights {
  float kernel[2], bias[2], kernel_1[2], bias_1[2];
} weights;

static const weights ones = {{1.5f, 2.5f}, {3.5f, 4.5f}, {5.5f, 6.5f}, {7.5f, 8.5f}};
static const weights nothing = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};

static ckpt_model *model_of(weights *w) {
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 1, two, NULL, w->kernel));
  OK(ckpt_model_add(model, "layers/dense/vars/1", CKPT_DTYPE_F32, 1, two, NULL, w->bias));
  OK(ckpt_model_add(model, "layers/dense_1/vars/0", CKPT_DTYPE_F32, 1, two, NULL, w->kernel_1));
  OK(ckpt_model_add(model, "layers/dense_1/vars/1", CKPT_DTYPE_F32, 1, two, NULL, w->bias_1));
  return model;
}

static void save(void) {
  weights w = ones;
  ckpt_model *model = model_of(&w);
  OK(ckpt_model_set_name(model, "layers/dense", "first"));
  OK(ckpt_model_set_name(model, "", "root"));
  OK(ckpt_model_set_config(model, CONFIG));
  OK(ckpt_model_set_asset(model, "layers/words/vocabulary.txt", "a\0b", 3));
  OK(ckpt_model_set_asset(model, "empty", NULL, 0));
  for (int f = 0; f < 2; f++)
    OK(ckpt_model_save(model, files[f]));
  ckpt_model_free(model);
}

static ckpt_reader *opened(const char *path) {
  ckpt_reader *reader = NULL;
  OK(ckpt_reader_open(path, &reader));
  return reader;
}

static void conversion(const char *path) {
  const uint32_t flag = CKPT_LOAD_CONVERT_FLOATS;
  double kernel[4] = {0, -1, 0, -1};
  uint16_t bias[2] = {0, 0};
  const int64_t apart[] = {2};
  size_t loaded = 0;
  ckpt_reader *reader = opened(path);
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F64, 1, two, apart, kernel));
  FAILS(ckpt_reader_load(reader, model), CKPT_E_MISMATCH, "is float32 in the checkpoint, float64 in the model (CKPT_LOAD_CONVERT_FLOATS");
  CHECK(kernel[0] == 0);
  OK(ckpt_model_add(model, "layers/dense/vars/1", CKPT_DTYPE_BF16, 1, two, NULL, bias));
  OK(ckpt_reader_load_flags(reader, model, flag, NULL, 0, &loaded));
  CHECK(loaded == 2 && kernel[0] == 1.5 && kernel[1] == -1 && kernel[2] == 2.5 && kernel[3] == -1);
  CHECK(bias[0] == 0x4060 && bias[1] == 0x4090);
  ckpt_model_free(model);

  int32_t integers[2];
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_I32, 1, two, NULL, integers));
  FAILS(ckpt_reader_load_flags(reader, model, flag, NULL, 0, NULL), CKPT_E_MISMATCH, "is float32 in the checkpoint, int32");
  ckpt_model_free(model);
  ckpt_reader_free(reader);
}

static bool is(const ckpt_model *model, size_t i, const char *path, const char *says) {
  const char *of = NULL, *why = NULL;
  OK(ckpt_model_skipped(model, i, &of, &why));
  return strcmp(of, path) == 0 && strstr(why, says) != NULL;
}

static void parts(const char *path) {
  weights w = nothing;
  float more[4] = {-1, -1, -1, -1};
  size_t loaded = 42;
  ckpt_reader *reader = opened(path);
  ckpt_model *model = model_of(&w);
  OK(ckpt_model_add(model, "layers/dense/vars/2", CKPT_DTYPE_F32, 1, four, NULL, more));
  FAILS(ckpt_reader_load_flags(reader, model, CKPT_LOAD_EXACT, NULL, 0, &loaded), CKPT_E_MISMATCH,
        "has no tensor 'layers/dense/vars/2', which the model has (CKPT_LOAD_PARTIAL");
  CHECK(loaded == 42 && memcmp(&w, &nothing, sizeof w) == 0);

  OK(ckpt_reader_load_flags(reader, model, CKPT_LOAD_PARTIAL, NULL, 0, &loaded));
  CHECK(loaded == 4 && memcmp(&w, &ones, sizeof w) == 0 && more[0] == -1);
  CHECK(ckpt_model_skipped_len(model) == 1 && is(model, 0, "layers/dense/vars/2", "has no tensor"));

  /* The layer of which something does not fit stays as it is, the other one does not. */
  w = nothing;
  OK(ckpt_reader_load_flags(reader, model, CKPT_LOAD_SKIP_MISMATCH, NULL, 0, &loaded));
  CHECK(loaded == 2 && w.kernel[0] == -1 && w.bias[1] == -1 && w.kernel_1[0] == 5.5f && w.bias_1[1] == 8.5f);
  CHECK(ckpt_model_skipped_len(model) == 3 && is(model, 0, "layers/dense/vars/0", "'layers/dense/vars/2'"));

  /* What is absent does not fail its group if it may be absent. */
  OK(ckpt_reader_load_flags(reader, model, CKPT_LOAD_SKIP_MISMATCH | CKPT_LOAD_PARTIAL, NULL, 0, &loaded));
  CHECK(loaded == 4 && memcmp(&w, &ones, sizeof w) == 0);
  ckpt_model_free(model);

  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 1, four, NULL, more));
  FAILS(ckpt_reader_load_flags(reader, model, CKPT_LOAD_PARTIAL, NULL, 0, &loaded), CKPT_E_MISMATCH,
        "has shape [2] in the checkpoint, [4] in the model");
  OK(ckpt_reader_load_flags(reader, model, CKPT_LOAD_SKIP_MISMATCH, NULL, 0, &loaded));
  CHECK(loaded == 0 && more[0] == -1 && ckpt_model_skipped_len(model) == 1);
  OK(ckpt_reader_load_flags(reader, model, CKPT_LOAD_SKIP_MISMATCH, NULL, 0, NULL));
  ckpt_model_free(model);
  ckpt_reader_free(reader);
}

static void renames(const char *path) {
  const ckpt_rename list[] = {{"layers", "my/layers"}, {"layers/dense", "my/layers/first"}, {"layers/dense_1", "tied"}};
  float kernel[2], bias[2], tied[2];
  size_t loaded = 0;
  ckpt_reader *reader = opened(path);
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "my/layers/first/vars/0", CKPT_DTYPE_F32, 1, two, NULL, kernel));
  OK(ckpt_model_add(model, "my/layers/dense_1/vars/1", CKPT_DTYPE_F32, 1, two, NULL, bias));
  OK(ckpt_model_add(model, "tied/vars/1", CKPT_DTYPE_F32, 1, two, NULL, tied));
  OK(ckpt_reader_load_flags(reader, model, 0, list, 3, &loaded));
  CHECK(loaded == 3 && kernel[0] == 1.5f && bias[0] == 7.5f && tied[1] == 8.5f);
  FAILS(ckpt_reader_load_flags(reader, model, 0, list, 1, NULL), CKPT_E_MISMATCH,
        "'layers/first/vars/0' ('my/layers/first/vars/0' in the model)");
  ckpt_model_free(model);
  ckpt_reader_free(reader);
}

/* Another program has changed a tensor. */
static void unverified(const char *path) {
  weights w = nothing;
  float value = 0, changed = 9.5f;
  long at = 0;
  FILE *file = fopen(path, "r+b");
  CHECK(file != NULL);
  for (; value != ones.bias[1]; at += 4) {
    CHECK(fseek(file, at, SEEK_SET) == 0);
    CHECK(fread(&value, sizeof value, 1, file) == 1);
  }
  CHECK(fseek(file, at - 4, SEEK_SET) == 0);
  CHECK(fwrite(&changed, sizeof changed, 1, file) == 1 && fclose(file) == 0);

  ckpt_reader *reader = opened(path);
  ckpt_model *model = model_of(&w);
  FAILS(ckpt_reader_load(reader, model), CKPT_E_FORMAT, "CKPT_LOAD_UNVERIFIED loads it all the same");
  OK(ckpt_reader_load_flags(reader, model, CKPT_LOAD_UNVERIFIED, NULL, 0, NULL));
  CHECK(w.bias[1] == changed && w.bias_1[1] == ones.bias_1[1]);
  ckpt_model_free(model);
  ckpt_reader_free(reader);
}

static void contents(const char *path, bool keras) {
  ckpt_reader *reader = opened(path);
  const char *text = NULL, *name = NULL, *again = NULL;
  const void *bytes = NULL, *same = NULL;
  size_t n = 42;
  CHECK(ckpt_reader_groups_len(reader) == 2);
  OK(ckpt_reader_group(reader, 0, &text, &name));
  CHECK(strcmp(text, "") == 0 && strcmp(name, "root") == 0);
  OK(ckpt_reader_group(reader, 1, &text, &name));
  CHECK(strcmp(text, "layers/dense") == 0 && strcmp(name, "first") == 0);
  OK(ckpt_reader_name(reader, "layers/dense", &again));
  CHECK(again == name);
  OK(ckpt_reader_name(reader, "", &again));
  CHECK(strcmp(again, "root") == 0);
  FAILS(ckpt_reader_name(reader, "layers/dense_1", &again), CKPT_E_NOT_FOUND, "'layers/dense_1'");
  OK(ckpt_reader_state(reader, &text));
  CHECK(text[0] == '{');
  OK(ckpt_reader_state(reader, &again));
  CHECK(again == text);

  CHECK(ckpt_reader_assets_len(reader) == (keras ? 2 : 0));
  if (!keras) {
    FAILS(ckpt_reader_config(reader, &text), CKPT_E_NOT_FOUND, "configuration");
    FAILS(ckpt_reader_asset(reader, "empty", &bytes, &n), CKPT_E_NOT_FOUND, "'empty'");
  } else {
    OK(ckpt_reader_config(reader, &text));
    CHECK(strcmp(text, CONFIG) == 0);
    OK(ckpt_reader_metadata(reader, &text));
    CHECK(strstr(text, "\"keras_version\"") && strstr(text, "\"date_saved\""));
    OK(ckpt_reader_asset_name(reader, 1, &name));
    CHECK(strcmp(name, "layers/words/vocabulary.txt") == 0);
    OK(ckpt_reader_asset(reader, name, &bytes, &n));
    CHECK(n == 3 && memcmp(bytes, "a\0b", 3) == 0);
    OK(ckpt_reader_asset(reader, name, &same, &n));
    CHECK(same == bytes);
    OK(ckpt_reader_asset(reader, "empty", &bytes, &n));
    CHECK(n == 0 && bytes != NULL);
    FAILS(ckpt_reader_asset(reader, "layers/words", &bytes, &n), CKPT_E_NOT_FOUND, "'layers/words'");
  }
  ckpt_reader_free(reader);
}

int main(void) {
  fresh_directory("load");
  save();
  for (int f = 0; f < 2; f++) {
    conversion(files[f]);
    parts(files[f]);
    renames(files[f]);
    contents(files[f], f == 1);
    unverified(files[f]);
  }
  return 0;
}
