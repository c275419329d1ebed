/* What a model owns is given up once nobody needs it any more, and not before. */
#include "check.h"

#define N (1 << 20)

/* A buffer that is given up: by then nothing may read it. */
typedef struct owned {
  float *data;
  int released;
} owned;

static void release(void *user) {
  owned *o = user;
  free(o->data);
  o->data = NULL;
  o->released++;
}

static ckpt_model *model_of(owned *o, float value) {
  const int64_t shape[] = {N};
  ckpt_model *model;
  o->data = malloc(N * sizeof *o->data);
  o->released = 0;
  CHECK(o->data);
  for (int i = 0; i < N; i++)
    o->data[i] = value;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 1, shape, NULL, o->data));
  OK(ckpt_model_own(model, NULL, release, o));
  return model;
}

static void check_file(const char *path, float value) {
  static float found[N];
  ckpt_reader *reader;
  OK(ckpt_reader_open(path, &reader));
  OK(ckpt_reader_read(reader, 0, found, sizeof found));
  ckpt_reader_free(reader);
  for (int i = 0; i < N; i++)
    CHECK(found[i] == value);
}

/* No save: with the model. */
static void without_a_save(void) {
  owned o;
  ckpt_model *model = model_of(&o, 1);
  OK(ckpt_model_own(model, NULL, release, &o));
  OK(ckpt_model_add(model, "layers/dense/vars/1", CKPT_DTYPE_F32, 0, NULL, NULL, o.data));
  CHECK(o.released == 0);
  ckpt_model_free(model);
  CHECK(o.released == 2);
}

/* Saves of models that are freed at once, in each mode; some give way to others. */
static void with_saves(ckpt_async mode, ckpt_backpressure backpressure) {
  static owned all[8];
  char path[64];
  ckpt *session = weights_session("{epoch}.weights.h5", mode, backpressure);
  for (uint64_t epoch = 0; epoch < 8; epoch++) {
    owned *o = &all[epoch];
    ckpt_model *model = model_of(o, (float)epoch);
    OK(ckpt_set_state(session, "epoch", &epoch, epoch)); /* nothing at first */
    OK(ckpt_on_epoch_end(session, epoch, NULL, 0));
    OK(ckpt_save(session, model));
    if (epoch % 2) /* a change of the model while the save has its buffers */
      OK(ckpt_model_add(model, "layers/dense/vars/1", CKPT_DTYPE_F32, 0, NULL, NULL, o->data));
    ckpt_model_free(model);
    if (mode != CKPT_ASYNC_BORROW)
      CHECK(o->released == 1);
  }
  OK(ckpt_wait(session));
  for (int i = 0; i < 8; i++) {
    CHECK(all[i].released == 1);
    snprintf(path, sizeof path, "%d.weights.h5", i + 1);
    if (backpressure == CKPT_BACKPRESSURE_BLOCK || i == 7)
      check_file(path, (float)i);
  }
  ckpt_free(session);
}

/* A save that cannot be made gives it up, too. */
static void after_a_failure(void) {
  owned o;
  ckpt *session = weights_session("/proc/no/{epoch}.weights.h5", CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_BLOCK);
  ckpt_model *model = model_of(&o, 1);
  OK(ckpt_on_epoch_end(session, 0, NULL, 0));
  OK(ckpt_save(session, model));
  ckpt_model_free(model);
  CHECK(ckpt_wait(session) == CKPT_E_IO || ckpt_last_os_error() != 0);
  CHECK(o.released == 1);
  ckpt_free(session);
}

int main(void) {
  without_a_save();
  with_saves(CKPT_ASYNC_OFF, CKPT_BACKPRESSURE_BLOCK);
  with_saves(CKPT_ASYNC_COPY, CKPT_BACKPRESSURE_BLOCK);
  with_saves(CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_BLOCK);
  with_saves(CKPT_ASYNC_BORROW, CKPT_BACKPRESSURE_REPLACE);
  after_a_failure();
  return 0;
}
