#include <ckpt.h>
#include <stdio.h>
#define CHECK(call) if ((call) != CKPT_OK) return fprintf(stderr, "%s\n", ckpt_last_error()), 1

int main(void) {
  static float kernel[64][32]; /* your model */
  const int64_t shape[] = {64, 32};
  ckpt_options *options;
  ckpt_model *model;
  ckpt *session;
  CHECK(ckpt_options_new(&options));
  CHECK(ckpt_options_set_save_best_only(options, true)); /* by "val_loss" */
  CHECK(ckpt_options_set_save_weights_only(options, true));
  CHECK(ckpt_new("checkpoints/{epoch:02d}-{val_loss:.3f}.weights.h5", options, &session));
  CHECK(ckpt_model_new(&model));
  CHECK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 2, shape, NULL, kernel));
  for (uint64_t epoch = 0; epoch < 5; epoch++) {
    kernel[0][0] += 1.0f; /* your training */
    ckpt_metric logs[] = {{"val_loss", 1.0 / (1.0 + (double)epoch)}};
    CHECK(ckpt_on_epoch_end(session, epoch, logs, 1));
    if (ckpt_should_save(session)) CHECK(ckpt_save(session, model));
  }
  ckpt_free(session);
  ckpt_model_free(model);
  ckpt_options_free(options);
  return 0;
}
