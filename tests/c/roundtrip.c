/* What goes into a file comes out of it, byte by byte: every dtype, rank, stride and size, in every format of weights, and in .keras. */
#include "check.h"

#define MAX_RANK 32
#define CONFIG "{\"module\": \"keras\", \"class_name\": \"Sequential\", \"config\": {}}"

/* A tensor in a buffer of its own: `first` is the element whose indices are all 0. */
typedef struct tensor {
  char path[64];
  ckpt_dtype dtype;
  size_t rank, element;
  int64_t shape[MAX_RANK], strides[MAX_RANK];
  size_t buffer_bytes;
  unsigned char *buffer, *first;
} tensor;

static size_t dtype_size(ckpt_dtype dtype) {
  static const size_t sizes[] = {4, 8, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8, 1};
  return sizes[dtype];
}

static unsigned char random_byte(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (unsigned char)(state >> 32);
}

static size_t count(const tensor *t) {
  size_t n = 1;
  for (size_t i = 0; i < t->rank; i++)
    n *= (size_t)t->shape[i];
  return n;
}

static void row_major(tensor *t) {
  int64_t stride = 1;
  for (size_t i = t->rank; i-- > 0; stride *= t->shape[i] > 0 ? t->shape[i] : 1)
    t->strides[i] = stride;
}

/* Makes room for what the strides reach, and fills it. */
static void allocate(tensor *t) {
  int64_t low = 0, high = 0;
  t->element = dtype_size(t->dtype);
  for (size_t i = 0; i < t->rank; i++) {
    int64_t reach = (t->shape[i] > 0 ? t->shape[i] - 1 : 0) * t->strides[i];
    *(reach < 0 ? &low : &high) += reach;
  }
  t->buffer_bytes = count(t) == 0 ? 0 : (size_t)(high - low + 1) * t->element;
  t->buffer = t->buffer_bytes ? malloc(t->buffer_bytes) : NULL;
  t->first = t->buffer ? t->buffer + (size_t)-low * t->element : NULL;
  for (size_t i = 0; i < t->buffer_bytes; i++)
    t->buffer[i] = t->dtype == CKPT_DTYPE_BOOL ? random_byte() & 1 : random_byte();
}

/* The elements in row-major order; with `mark`, what is not an element is set to 0 instead. */
static unsigned char *elements(const tensor *t, unsigned char *mark) {
  size_t n = count(t);
  unsigned char *out = malloc(n * t->element + 1);
  int64_t index[MAX_RANK] = {0};
  if (mark)
    memset(mark, 0, t->buffer_bytes);
  for (size_t k = 0; k < n; k++) {
    int64_t at = 0;
    for (size_t i = 0; i < t->rank; i++)
      at += index[i] * t->strides[i];
    unsigned char *element = t->first + at * (int64_t)t->element;
    memcpy(out + k * t->element, element, t->element);
    if (mark)
      memset(mark + (element - t->buffer), 1, t->element);
    for (size_t i = t->rank; i-- > 0;) {
      if (++index[i] < t->shape[i])
        break;
      index[i] = 0;
    }
  }
  return out;
}

static void add(ckpt_model *model, const tensor *t, bool strided) {
  OK(ckpt_model_add(model, t->path, t->dtype, t->rank, t->rank ? t->shape : NULL, strided ? t->strides : NULL,
                    t->first));
}

static void release(tensor *t) {
  free(t->buffer);
}

/* Saves, reads each tensor back, and loads all into a model of the same tensors, whose strides may differ. */
static void through_a_file(const char *path, const tensor *saved, tensor *loaded, size_t n, bool strided) {
  ckpt_model *out = NULL, *in = NULL;
  ckpt_reader *reader = NULL;
  OK(ckpt_model_new(&out));
  OK(ckpt_model_new(&in));
  OK(ckpt_model_set_config(out, CONFIG));
  for (size_t i = 0; i < n; i++) {
    add(out, &saved[i], strided);
    add(in, &loaded[i], true);
  }
  OK(ckpt_model_save(out, path));
  OK(ckpt_reader_open(path, &reader));
  CHECK(ckpt_reader_len(reader) == n);
  OK(ckpt_reader_verify(reader));
  for (size_t i = 0; i < n; i++) {
    const tensor *t = &saved[i];
    size_t index, nbytes = count(t) * t->element;
    ckpt_tensor_info info;
    OK(ckpt_reader_find(reader, t->path, &index));
    OK(ckpt_reader_tensor(reader, index, &info));
    CHECK(strcmp(info.path, t->path) == 0);
    CHECK(info.dtype == t->dtype && info.rank == t->rank && info.nbytes == nbytes);
    CHECK(memcmp(info.shape, t->shape, t->rank * sizeof *t->shape) == 0);
    unsigned char *expected = elements(t, NULL), *got = malloc(nbytes + 1);
    OK(ckpt_reader_read(reader, index, nbytes ? got : NULL, nbytes));
    CHECK(memcmp(expected, got, nbytes) == 0);
    free(got);
    free(expected);
  }
  for (size_t i = 0; i < n; i++)
    if (loaded[i].buffer)
      memset(loaded[i].buffer, 0xA5, loaded[i].buffer_bytes);
  OK(ckpt_reader_load(reader, in));
  for (size_t i = 0; i < n; i++) {
    unsigned char *mark = malloc(loaded[i].buffer_bytes + 1);
    unsigned char *expected = elements(&saved[i], NULL), *got = elements(&loaded[i], mark);
    CHECK(memcmp(expected, got, count(&saved[i]) * saved[i].element) == 0);
    for (size_t b = 0; b < loaded[i].buffer_bytes; b++)
      CHECK(mark[b] || loaded[i].buffer[b] == 0xA5); /* what lies between the elements is the caller's */
    free(mark);
    free(expected);
    free(got);
  }
  ckpt_reader_free(reader);
  ckpt_model_free(in);
  ckpt_model_free(out);
}

static void all_formats(const tensor *saved, tensor *loaded, size_t n, bool strided) {
  through_a_file("roundtrip/a.weights.h5", saved, loaded, n, strided);
  through_a_file("roundtrip/a.keras", saved, loaded, n, strided);
  through_a_file("roundtrip/a.safetensors", saved, loaded, n, strided);
  through_a_file("roundtrip/a.weights.json", saved, loaded, n, strided);
}

/* Every rank of every dtype, without strides, and names in any script. */
static void ranks(void) {
  enum { n = 13 * (MAX_RANK + 1) };
  static tensor saved[n], loaded[n];
  for (size_t k = 0; k < n; k++) {
    tensor *t = &saved[k];
    t->dtype = (ckpt_dtype)(k % 13);
    t->rank = k / 13;
    snprintf(t->path, sizeof t->path, "\xd1\x81\xd0\xbb\xd0\xbe\xd0\xb9 %zu/\xf0\x9f\x99\x82/%zu", k % 13, t->rank);
    for (size_t i = 0; i < t->rank; i++)
      t->shape[i] = i % 4 == 1 ? 2 : i % 16 == 3 ? 3 : 1;
    row_major(t);
    loaded[k] = *t;
    allocate(t);
    allocate(&loaded[k]);
  }
  all_formats(saved, loaded, n, false);
  for (size_t k = 0; k < n; k++)
    release(&saved[k]), release(&loaded[k]);
}

/* The ways in which a [3, 4, 5] can lie in memory. */
static void lay_out(tensor *t, size_t way) {
  static const int64_t ways[][3] = {
      {20, 5, 1},    /* row-major */
      {1, 3, 12},    /* column-major: transposed */
      {-20, -5, -1}, /* backwards */
      {-40, 10, -2}, /* with gaps, to and fro */
      {5, 15, -1},   /* two axes swapped, one backwards */
      {1000, 100, 7} /* far apart */,
  };
  memcpy(t->strides, ways[way], sizeof ways[way]);
}

static void strides(void) {
  enum { ways = 6, n = 13 * ways };
  static tensor saved[n], loaded[n];
  for (size_t k = 0; k < n; k++) {
    tensor *t = &saved[k];
    t->dtype = (ckpt_dtype)(k % 13);
    t->rank = 3;
    t->shape[0] = 3, t->shape[1] = 4, t->shape[2] = 5;
    snprintf(t->path, sizeof t->path, "layers/dense_%zu/vars/%zu", k % 13, k / 13);
    loaded[k] = *t;
    lay_out(t, k / 13);
    lay_out(&loaded[k], (k / 13 + 1 + k % 5) % ways);
    allocate(t);
    allocate(&loaded[k]);
  }
  all_formats(saved, loaded, n, true);
  for (size_t k = 0; k < n; k++)
    release(&saved[k]), release(&loaded[k]);
}

/* Larger than any block that a writer packs at a time, and strided. */
static void large_transposed(void) {
  tensor saved = {.path = "large", .dtype = CKPT_DTYPE_F32, .rank = 2, .shape = {1500, 2500}, .strides = {1, 1500}};
  tensor loaded = {.path = "large", .dtype = CKPT_DTYPE_F32, .rank = 2, .shape = {1500, 2500}, .strides = {-2500, 1}};
  allocate(&saved);
  allocate(&loaded);
  all_formats(&saved, &loaded, 1, true);
  release(&saved), release(&loaded);
}

static void zero_strides(void) {
  tensor saved = {.path = "row", .dtype = CKPT_DTYPE_F64, .rank = 2, .shape = {3, 4}, .strides = {0, 1}};
  tensor loaded = {.path = "row", .dtype = CKPT_DTYPE_F64, .rank = 2, .shape = {3, 4}};
  row_major(&loaded);
  allocate(&saved);
  allocate(&loaded);
  all_formats(&saved, &loaded, 1, true);

  ckpt_model *model = NULL;
  ckpt_reader *reader = NULL;
  OK(ckpt_model_new(&model));
  add(model, &saved, true);
  memset(saved.buffer, 0xA5, saved.buffer_bytes);
  OK(ckpt_reader_open("roundtrip/a.keras", &reader));
  FAILS(ckpt_reader_load(reader, model), CKPT_E_UNSUPPORTED, "tensor 'row' has elements that share memory");
  CHECK(saved.buffer[0] == 0xA5 && saved.buffer[saved.buffer_bytes - 1] == 0xA5);
  ckpt_reader_free(reader);
  ckpt_model_free(model);
  release(&saved), release(&loaded);
}

static void zero_sizes(void) {
  static tensor saved[13 * 3], loaded[13 * 3];
  static const int64_t shapes[3][3] = {{0}, {3, 0, 2}, {0, 0, 0}};
  for (size_t k = 0; k < 13 * 3; k++) {
    tensor *t = &saved[k];
    t->dtype = (ckpt_dtype)(k % 13);
    t->rank = k / 13 == 0 ? 1 : 3;
    memcpy(t->shape, shapes[k / 13], sizeof shapes[0]);
    snprintf(t->path, sizeof t->path, "empty/%zu", k);
    row_major(t);
    allocate(t);
    loaded[k] = *t;
  }
  all_formats(saved, loaded, 13 * 3, false);
}

/* A group of 100,000 tensors. */
static void many(void) {
  enum { n = 100000 };
  int32_t *out = malloc(n * sizeof *out), *in = malloc(n * sizeof *in);
  const char *const files[] = {"roundtrip/many.weights.h5", "roundtrip/many.keras"};
  ckpt_model *saved = NULL, *loaded = NULL;
  ckpt_reader *reader = NULL;
  OK(ckpt_model_new(&saved));
  OK(ckpt_model_new(&loaded));
  OK(ckpt_model_set_config(saved, CONFIG));
  for (int i = 0; i < n; i++) {
    char path[32];
    snprintf(path, sizeof path, "layers/many/vars/%d", i);
    out[i] = (int32_t)((uint32_t)i * 2654435761u >> 1);
    OK(ckpt_model_add(saved, path, CKPT_DTYPE_I32, 0, NULL, NULL, &out[i]));
    OK(ckpt_model_add(loaded, path, CKPT_DTYPE_I32, 0, NULL, NULL, &in[i]));
  }
  for (int f = 0; f < 2; f++) {
    OK(ckpt_model_save(saved, files[f]));
    memset(in, 0, n * sizeof *in);
    OK(ckpt_reader_open(files[f], &reader));
    CHECK(ckpt_reader_len(reader) == n);
    OK(ckpt_reader_load(reader, loaded));
    CHECK(memcmp(in, out, n * sizeof *in) == 0);
    ckpt_reader_free(reader);
  }
  ckpt_model_free(saved);
  ckpt_model_free(loaded);
  free(in);
  free(out);
}

/* A file that is not what the model expects is refused before any buffer is touched. */
static void mismatches(void) {
  float kernel[6] = {1, 2, 3, 4, 5, 6}, bias[3] = {7, 8, 9};
  const int64_t kernel_shape[] = {2, 3}, turned[] = {3, 2}, flat[] = {6}, bias_shape[] = {3};
  const struct {
    const char *path;
    ckpt_dtype dtype;
    size_t rank;
    const int64_t *shape;
  } wrong[] = {
      {"kernels", CKPT_DTYPE_F32, 2, kernel_shape}, /* not there */
      {"kernel", CKPT_DTYPE_I32, 2, kernel_shape},
      {"kernel", CKPT_DTYPE_F32, 2, turned},
      {"kernel", CKPT_DTYPE_F32, 1, flat},
  };
  ckpt_model *model = NULL;
  ckpt_reader *reader = NULL;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "bias", CKPT_DTYPE_F32, 1, bias_shape, NULL, bias));
  OK(ckpt_model_add(model, "kernel", CKPT_DTYPE_F32, 2, kernel_shape, NULL, kernel));
  OK(ckpt_model_save(model, "roundtrip/mismatch.weights.h5"));
  ckpt_model_free(model);
  OK(ckpt_reader_open("roundtrip/mismatch.weights.h5", &reader));
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    float into[6] = {-1, -1, -1, -1, -1, -1}, into_bias[3] = {-1, -1, -1};
    OK(ckpt_model_new(&model));
    OK(ckpt_model_add(model, "bias", CKPT_DTYPE_F32, 1, bias_shape, NULL, into_bias));
    OK(ckpt_model_add(model, wrong[i].path, wrong[i].dtype, wrong[i].rank, wrong[i].shape, NULL, into));
    FAILS(ckpt_reader_load(reader, model), CKPT_E_MISMATCH, wrong[i].path);
    for (int k = 0; k < 6; k++)
      CHECK(into[k] == -1 && into_bias[k % 3] == -1);
    ckpt_model_free(model);
  }
  ckpt_reader_free(reader);
}

/* A damaged byte of a tensor is found by its checksum. */
static void damage(void) {
  static double data[1000];
  const int64_t shape[] = {1000};
  ckpt_model *model = NULL;
  ckpt_reader *reader = NULL;
  size_t index;
  for (size_t i = 0; i < 1000; i++)
    data[i] = 12345.678;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "w", CKPT_DTYPE_F64, 1, shape, NULL, data));
  OK(ckpt_model_save(model, "roundtrip/damaged.weights.h5"));

  FILE *file = fopen("roundtrip/damaged.weights.h5", "r+b");
  double value = 0;
  long at = 0;
  CHECK(file != NULL);
  for (; value != data[0]; at += 8) {
    CHECK(fseek(file, at, SEEK_SET) == 0);
    CHECK(fread(&value, sizeof value, 1, file) == 1);
  }
  CHECK(fseek(file, at + 100, SEEK_SET) == 0);
  CHECK(fputc(0, file) == 0 && fclose(file) == 0);

  OK(ckpt_reader_open("roundtrip/damaged.weights.h5", &reader));
  OK(ckpt_reader_find(reader, "w", &index));
  FAILS(ckpt_reader_verify(reader), CKPT_E_FORMAT, "'w'");
  FAILS(ckpt_reader_read(reader, index, data, sizeof data), CKPT_E_FORMAT, "'w'");
  FAILS(ckpt_reader_load(reader, model), CKPT_E_FORMAT, "'w'");
  ckpt_reader_free(reader);
  ckpt_model_free(model);
}

int main(void) {
  fresh_directory("roundtrip");
  ranks();
  strides();
  large_transposed();
  zero_strides();
  zero_sizes();
  many();
  mismatches();
  damage();
  return 0;
}
