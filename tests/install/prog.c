/* An outsider's program in C: saves a small model, reads it back, and compares. */
#include <ckpt.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(ckpt_status status, const char *what) {
  if (status != CKPT_OK) {
    fprintf(stderr, "%s: %s: %s\n", what, ckpt_status_name(status), ckpt_last_error());
    exit(1);
  }
}

static ckpt_model *model_of(float *kernel, float *bias) {
  const int64_t kernel_shape[2] = {3, 2}, bias_shape[1] = {2};
  ckpt_model *model;
  must(ckpt_model_new(&model), "ckpt_model_new");
  must(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 2, kernel_shape, NULL, kernel), "add kernel");
  must(ckpt_model_add(model, "layers/dense/vars/1", CKPT_DTYPE_F32, 1, bias_shape, NULL, bias), "add bias");
  must(ckpt_model_set_name(model, "layers/dense", "dense"), "ckpt_model_set_name");
  return model;
}

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : "prog_c.weights.h5";
  float kernel[6] = {1, 2, 3, 4, 5, 6}, bias[2] = {-1, 0.5f}, kernel_back[6] = {0}, bias_back[2] = {0};
  ckpt_model *model = model_of(kernel, bias), *back = model_of(kernel_back, bias_back);
  ckpt_reader *reader;

  if (ckpt_version() != CKPT_VERSION) {
    fprintf(stderr, "header %x, library %x\n", (unsigned)CKPT_VERSION, (unsigned)ckpt_version());
    return 1;
  }
  must(ckpt_model_save(model, path), "ckpt_model_save");
  must(ckpt_reader_open(path, &reader), "ckpt_reader_open");
  must(ckpt_reader_load(reader, back), "ckpt_reader_load");
  if (ckpt_reader_len(reader) != 2 || memcmp(kernel, kernel_back, sizeof kernel) != 0 ||
    memcmp(bias, bias_back, sizeof bias) != 0) {
    fprintf(stderr, "what came back is not what was saved\n");
    return 1;
  }
  ckpt_reader_free(reader);
  ckpt_model_free(back);
  ckpt_model_free(model);
  printf("C: saved and read %s\n", path);
  return 0;
}
