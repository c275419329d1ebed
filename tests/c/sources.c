/* Tensors on a device that only two functions can see: what they are asked for, and what becomes of their failures. */
#include "check.h"

#include <dirent.h>
#include <pthread.h>

#define TENSORS 4
#define BLOCK (2u << 20)
#define CONFIG "{\"module\": \"keras\", \"class_name\": \"Sequential\", \"config\": {}}"

/* A tensor on the device. */
typedef struct tensor {
  const char *path;
  ckpt_dtype dtype;
  size_t rank, element;
  int64_t shape[2];
  uint64_t nbytes;
  unsigned char *memory;
  uint64_t next; /* the byte that is to come next */
} tensor;

static tensor device[TENSORS] = {
    {"layers/dense/vars/0", CKPT_DTYPE_F32, 2, 4, {1 << 18, 5}, 5 << 20, NULL, 0},
    {"layers/dense/vars/1", CKPT_DTYPE_BF16, 1, 2, {513, 0}, 1026, NULL, 0},
    {"layers/dense/vars/2", CKPT_DTYPE_I64, 1, 8, {0, 0}, 0, NULL, 0},
    {"optimizer/vars/0", CKPT_DTYPE_BOOL, 0, 1, {0, 0}, 1, NULL, 0},
};

static pthread_t caller;
static int calls, inside, fails_at = -1;
static ckpt_status fails_with = CKPT_E_NO_SPACE;

/* What both functions have to see. */
static ckpt_status called(tensor *t, uint64_t offset, uint64_t nbytes) {
  CHECK(inside++ == 0);
  CHECK(pthread_equal(pthread_self(), caller));
  CHECK(offset == t->next && nbytes > 0 && nbytes <= BLOCK && offset + nbytes <= t->nbytes);
  CHECK(offset % t->element == 0 && nbytes % t->element == 0);
  t->next = offset + nbytes;
  return calls++ == fails_at ? fails_with : CKPT_OK;
}

static ckpt_status fetch(void *dst, uint64_t offset, uint64_t nbytes, void *user) {
  tensor *t = user;
  ckpt_status status = called(t, offset, nbytes);
  if (status == CKPT_OK)
    memcpy(dst, t->memory + offset, (size_t)nbytes);
  inside--;
  return status;
}

static ckpt_status put(const void *src, uint64_t offset, uint64_t nbytes, void *user) {
  tensor *t = user;
  ckpt_status status = called(t, offset, nbytes);
  if (status == CKPT_OK)
    memcpy(t->memory + offset, src, (size_t)nbytes);
  inside--;
  return status;
}

static void expect_calls(int fails, ckpt_status with) {
  caller = pthread_self();
  calls = inside = 0;
  fails_at = fails, fails_with = with;
  for (int i = 0; i < TENSORS; i++)
    device[i].next = 0;
}

static void all_moved(void) {
  for (int i = 0; i < TENSORS; i++)
    CHECK(device[i].next == device[i].nbytes);
}

static void fill(int seed) {
  for (int i = 0; i < TENSORS; i++)
    for (uint64_t b = 0; b < device[i].nbytes; b++)
      device[i].memory[b] = (unsigned char)(device[i].dtype == CKPT_DTYPE_BOOL ? 1 : (b * 31 + b / 251 + (unsigned)seed));
}

/* Which of the tensors are on the device and which in memory; on the device without a way back, if `to` is NULL. */
static ckpt_model *model_of(int on_device, ckpt_put_fn to) {
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  for (int i = TENSORS - 1; i >= 0; i--) {
    tensor *t = &device[i];
    if (on_device)
      OK(ckpt_model_add_source(model, t->path, t->dtype, t->rank, t->shape, fetch, to, t));
    else
      OK(ckpt_model_add(model, t->path, t->dtype, t->rank, t->shape, NULL, t->memory));
  }
  OK(ckpt_model_set_config(model, CONFIG));
  return model;
}

/* The file's bytes; to be freed. */
static unsigned char *contents(const char *path, size_t *n) {
  FILE *file = fopen(path, "rb");
  unsigned char *bytes;
  CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
  *n = (size_t)ftell(file);
  rewind(file);
  bytes = malloc(*n);
  CHECK(bytes != NULL && fread(bytes, 1, *n, file) == *n);
  fclose(file);
  return bytes;
}

static bool same(const char *a, const char *b) {
  size_t n, m;
  unsigned char *first = contents(a, &n), *second = contents(b, &m);
  bool equal = n == m && memcmp(first, second, n) == 0;
  free(first), free(second);
  return equal;
}

static int files_in(const char *path) {
  DIR *directory = opendir(path);
  int n = 0;
  CHECK(directory != NULL);
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
    n += entry->d_name[0] != '.' || strncmp(entry->d_name, ".ckpt-tmp", 9) == 0;
  closedir(directory);
  return n;
}

static void a_file_is_that_of_memory(void) {
  ckpt_model *memory = model_of(0, NULL), *model = model_of(1, NULL);
  OK(ckpt_model_save(memory, "sources/memory.weights.h5"));
  expect_calls(-1, CKPT_OK);
  OK(ckpt_model_save(model, "sources/device.weights.h5"));
  all_moved();
  CHECK(same("sources/memory.weights.h5", "sources/device.weights.h5"));
  /* A further save asks for all of it again. */
  expect_calls(-1, CKPT_OK);
  OK(ckpt_model_save(model, "sources/device.keras"));
  all_moved();
  ckpt_model_free(memory);
  ckpt_model_free(model);
}

static void a_session_takes_them(void) {
  ckpt_model *model = model_of(1, NULL);
  ckpt_metric metrics[] = {{"val_loss", 0.5}};
  ckpt *session = NULL;
  OK(ckpt_new("sources/session.keras", NULL, &session));
  OK(ckpt_on_epoch_end(session, 0, metrics, 1));
  expect_calls(-1, CKPT_OK);
  OK(ckpt_save(session, model));
  all_moved();
  ckpt_free(session);
  ckpt_model_free(model);
}

static void a_load_puts_them_back(void) {
  ckpt_model *model = model_of(1, put);
  ckpt_reader *reader = NULL;
  unsigned char *before = malloc(device[0].nbytes);
  CHECK(before != NULL);
  memcpy(before, device[0].memory, device[0].nbytes);
  fill(2);
  CHECK(memcmp(before, device[0].memory, device[0].nbytes) != 0);
  OK(ckpt_reader_open("sources/device.keras", &reader));
  expect_calls(-1, CKPT_OK);
  OK(ckpt_reader_load(reader, model));
  all_moved();
  CHECK(memcmp(before, device[0].memory, device[0].nbytes) == 0);

  expect_calls(1, CKPT_E_NO_SPACE);
  FAILS(ckpt_reader_load(reader, model), CKPT_E_NO_SPACE,
        "tensor 'layers/dense/vars/0': its put function, called for 2097152 bytes at 2097152, returned CKPT_E_NO_SPACE");
  CHECK(calls == 2);
  ckpt_model_free(model);

  model = model_of(1, NULL);
  expect_calls(-1, CKPT_OK);
  FAILS(ckpt_reader_load(reader, model), CKPT_E_UNSUPPORTED, "has no put function: it can be saved, not loaded into");
  CHECK(calls == 0);
  ckpt_model_free(model);
  ckpt_reader_free(reader);
  free(before);
}

static void a_failure_leaves_the_old_file(void) {
  static const struct {
    ckpt_status returned, status;
    const char *says;
  } answers[] = {
      {CKPT_E_IO, CKPT_E_IO, "returned CKPT_E_IO"},
      {CKPT_E_INTERNAL, CKPT_E_INTERNAL, "returned CKPT_E_INTERNAL"},
      {(ckpt_status)99, CKPT_E_INVALID_ARGUMENT, "returned 99, which is no status"},
      {(ckpt_status)-1, CKPT_E_INVALID_ARGUMENT, "returned -1, which is no status"},
  };
  const int files = files_in("sources");
  ckpt_model *model = model_of(1, put);
  fill(3);
  for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
    ckpt_status status;
    const char *path = "sources/device.weights.h5";
    int call = 0;
    /* The last block of the large tensor, wherever a file's blocks end. */
    do {
      expect_calls(call++, answers[i].returned);
      status = ckpt_model_save(model, path);
      CHECK(status == answers[i].status && calls == call);
    } while (device[0].next < device[0].nbytes);
    CHECK(strstr(ckpt_last_error(), "ckpt_model_save: tensor 'layers/dense/vars/0': its fetch function, called for"));
    CHECK(strstr(ckpt_last_error(), answers[i].says));
    CHECK(same("sources/memory.weights.h5", path) && files_in("sources") == files);
  }
  expect_calls(-1, CKPT_OK);
  OK(ckpt_model_save(model, "sources/device.weights.h5"));
  CHECK(!same("sources/memory.weights.h5", "sources/device.weights.h5"));
  ckpt_model_free(model);
}

int main(void) {
  fresh_directory("sources");
  for (int i = 0; i < TENSORS; i++) {
    device[i].memory = malloc(device[i].nbytes + 1);
    CHECK(device[i].memory != NULL);
  }
  fill(1);
  a_file_is_that_of_memory();
  a_session_takes_them();
  a_load_puts_them_back();
  fill(1);
  a_failure_leaves_the_old_file();
  for (int i = 0; i < TENSORS; i++)
    free(device[i].memory);
  return 0;
}
