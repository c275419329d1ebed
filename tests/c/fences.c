/* What stands around the tensors of a model: fences hear of both ends of every save and load, on the thread and at the
   moment that the header names; what a model owns lives as long as anybody needs it. */
#include "check.h"

#include <pthread.h>

#define N (3 << 18)

static pthread_t caller;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static float device[N];
static char heard[64]; /* b e: a save's ends; l p: a load's; f u: the first byte is fetched, put; r: released */
static bool held;      /* fetches wait */
static char fails;     /* the one of these that fails */

static void hear(char what) {
  pthread_mutex_lock(&lock);
  size_t n = strlen(heard);
  CHECK(n + 1 < sizeof heard);
  heard[n] = what;
  pthread_mutex_unlock(&lock);
}

static void expect(const char *all) {
  pthread_mutex_lock(&lock);
  if (strcmp(heard, all) != 0)
    check_failed(__FILE__, __LINE__, heard, all);
  memset(heard, 0, sizeof heard);
  pthread_mutex_unlock(&lock);
}

static void hold(bool on) {
  pthread_mutex_lock(&lock);
  held = on;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

static ckpt_status answer(char what) {
  if (what != fails)
    return CKPT_OK;
  OK(ckpt_set_last_error("the device \xc3\xa4rgers itself"));
  return CKPT_E_NO_SPACE;
}

static ckpt_status fetch(void *dst, uint64_t offset, uint64_t nbytes, void *user) {
  (void)user;
  pthread_mutex_lock(&lock);
  while (held)
    pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
  if (offset == 0)
    hear('f');
  memcpy(dst, (char *)device + offset, (size_t)nbytes);
  return answer('f');
}

static ckpt_status put(const void *src, uint64_t offset, uint64_t nbytes, void *user) {
  (void)user;
  if (offset == 0)
    hear('u');
  memcpy((char *)device + offset, src, (size_t)nbytes);
  return answer('u');
}

static ckpt_status fence(ckpt_fence_at at, void *user) {
  char what = "belp"[at];
  CHECK(at >= CKPT_FENCE_SAVE_BEGIN && at <= CKPT_FENCE_LOAD_END);
  if (at == CKPT_FENCE_SAVE_BEGIN || at == CKPT_FENCE_LOAD_BEGIN)
    CHECK(pthread_equal(pthread_self(), caller));
  if (at == CKPT_FENCE_SAVE_END && user != NULL)
    CHECK(!exists(user)); /* the file has no name yet */
  hear(what);
  return answer(what);
}

static void release(void *user) {
  (void)user;
  hear('r');
}

static ckpt_model *model_of(const char *file) {
  const int64_t shape[] = {N};
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add_source(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 1, shape, fetch, put, NULL));
  OK(ckpt_model_add_fence(model, fence, (void *)file));
  return model;
}

static void due(ckpt *session) {
  static uint64_t epoch;
  const ckpt_metric metrics[] = {{"val_loss", 0.5}};
  OK(ckpt_on_epoch_end(session, epoch++, metrics, 1));
}

static void around_one_file(void) {
  const char *file = "fences/a.weights.h5";
  ckpt_model *model = model_of(file);
  ckpt_reader *reader = NULL;
  fails = 'b';
  FAILS(ckpt_model_save(model, file), CKPT_E_NO_SPACE,
        "a fence function, called at the beginning of the save, returned CKPT_E_NO_SPACE: the device \xc3\xa4rgers itself");
  expect("b");
  fails = 'e';
  FAILS(ckpt_model_save(model, file), CKPT_E_NO_SPACE, "called at the end of the save, returned CKPT_E_NO_SPACE: the");
  expect("bfe");
  fails = 'f';
  FAILS(ckpt_model_save(model, file), CKPT_E_NO_SPACE, "at 0, returned CKPT_E_NO_SPACE: the device");
  expect("bfe");
  CHECK(!exists(file));
  fails = 0;
  FAILS(ckpt_model_save(model, "fences/a.txt"), CKPT_E_UNSUPPORTED, "");
  expect("");
  OK(ckpt_model_save(model, file));
  expect("bfe");

  OK(ckpt_reader_open(file, &reader));
  OK(ckpt_reader_load(reader, model));
  expect("lup");
  fails = 'l';
  FAILS(ckpt_reader_load(reader, model), CKPT_E_NO_SPACE, "called at the beginning of the load, returned");
  expect("l");
  fails = 'u';
  FAILS(ckpt_reader_load(reader, model), CKPT_E_NO_SPACE, "at 0, returned CKPT_E_NO_SPACE: the device");
  expect("lup");
  fails = 'p';
  FAILS(ckpt_reader_load(reader, model), CKPT_E_NO_SPACE, "called at the end of the load, returned");
  expect("lup");
  fails = 0;
  ckpt_reader_free(reader);
  ckpt_model_free(model);
}

static void around_those_of_sessions(void) {
  static const ckpt_async kinds[] = {CKPT_ASYNC_OFF, CKPT_ASYNC_COPY, CKPT_ASYNC_BORROW};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    ckpt_model *model = model_of(NULL);
    ckpt *session = weights_session("fences/s.weights.h5", kinds[i], CKPT_BACKPRESSURE_BLOCK);
    ckpt_resume_info info;
    FAILS(ckpt_save(session, model), CKPT_E_STATE, "");
    OK(ckpt_prepare(session, model));
    expect("");
    due(session);
    hold(kinds[i] == CKPT_ASYNC_BORROW);
    OK(ckpt_save(session, model));
    expect(kinds[i] == CKPT_ASYNC_BORROW ? "b" : "bfe");
    hold(false);
    OK(ckpt_wait_buffers(session));
    expect(kinds[i] == CKPT_ASYNC_BORROW ? "fe" : "");
    OK(ckpt_resume(session, model, &info));
    OK(ckpt_load_best(session, model));
    expect("luplup");

    /* A failure in the background comes with its reason. */
    due(session);
    fails = 'e';
    if (kinds[i] == CKPT_ASYNC_BORROW) {
      OK(ckpt_save(session, model));
      FAILS(ckpt_wait(session), CKPT_E_NO_SPACE, "returned CKPT_E_NO_SPACE: the device \xc3\xa4rgers itself");
    } else {
      FAILS(ckpt_save(session, model), CKPT_E_NO_SPACE, "returned CKPT_E_NO_SPACE: the device \xc3\xa4rgers itself");
    }
    expect("bfe");
    fails = 0;
    ckpt_free(session);
    ckpt_model_free(model);
    CHECK(remove("fences/s.weights.h5") == 0);
  }
}

static void also_where_a_save_is_not_made(void) {
  ckpt_model *model = model_of(NULL);
  ckpt *session = weights_session("fences/n.weights.h5", CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_REPLACE);
  hold(true);
  for (int i = 0; i < 3; i++) {
    due(session);
    OK(ckpt_save(session, model));
  }
  expect("bbbe"); /* the second gave way */
  OK(ckpt_cancel(session));
  hold(false);
  FAILS(ckpt_wait(session), CKPT_E_CANCELLED, "");
  CHECK(strchr(heard, 'e') != NULL && strchr(strchr(heard, 'e') + 1, 'e') != NULL);
  memset(heard, 0, sizeof heard);
  ckpt_free(session);
  ckpt_model_free(model);
}

static void what_a_model_owns(void) {
  ckpt_model *model = model_of(NULL);
  ckpt *session = weights_session("fences/o.weights.h5", CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_BLOCK);
  void *found = NULL;
  OK(ckpt_model_own(model, "key", release, device));
  OK(ckpt_model_own(model, NULL, release, NULL));
  OK(ckpt_model_own(model, NULL, release, NULL));
  FAILS(ckpt_model_own(model, "key", release, NULL), CKPT_E_INVALID_ARGUMENT, "owns something as 'key' already");
  FAILS(ckpt_model_owned(model, "other", &found), CKPT_E_NOT_FOUND, "owns nothing as 'other'");
  OK(ckpt_model_owned(model, "key", &found));
  CHECK(found == device);
  ckpt_model_free(model);
  expect("rrr");

  model = model_of(NULL);
  OK(ckpt_model_own(model, "key", release, NULL));
  due(session);
  hold(true);
  OK(ckpt_save(session, model));
  ckpt_model_free(model);
  expect("b");
  hold(false);
  OK(ckpt_wait_buffers(session));
  expect("fer");
  ckpt_free(session);
}

int main(void) {
  fresh_directory("fences");
  caller = pthread_self();
  around_one_file();
  around_those_of_sessions();
  also_where_a_save_is_not_made();
  what_a_model_owns();
  return 0;
}
