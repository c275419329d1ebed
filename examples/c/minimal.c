/* The whole of it: train, and let libckpt keep the best weights. */
#include <ckpt.h>
#include <stdio.h>

int main(void) {
  float kernel[2 * 3] = {0}, bias[3] = {0};
  int64_t kernel_shape[] = {2, 3}, bias_shape[] = {3};
  ckpt_options *options = NULL;
  ckpt_model *model = NULL;
  ckpt *session = NULL;
  bool ok = ckpt_options_new(&options) == CKPT_OK &&
            ckpt_options_set_save_best_only(options, true) == CKPT_OK &&
            ckpt_options_set_save_weights_only(options, true) == CKPT_OK &&
            ckpt_options_set_verbose(options, 1) == CKPT_OK &&
            ckpt_new("checkpoints/{epoch:02d}-{val_loss:.3f}.weights.h5", options, &session) == CKPT_OK &&
            ckpt_model_new(&model) == CKPT_OK &&
            ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 2, kernel_shape, NULL, kernel) == CKPT_OK &&
            ckpt_model_add(model, "layers/dense/vars/1", CKPT_DTYPE_F32, 1, bias_shape, NULL, bias) == CKPT_OK;
  for (uint64_t epoch = 0; ok && epoch < 5; epoch++) {
    kernel[0] += 0.1f; /* your training goes here */
    ckpt_metric logs[] = {{"val_loss", 1.0 / (1.0 + (double)epoch)}};
    ok = ckpt_on_epoch_end(session, epoch, logs, 1) == CKPT_OK;
    if (ok && ckpt_should_save(session))
      ok = ckpt_save(session, model) == CKPT_OK;
  }
  if (!ok)
    fprintf(stderr, "%s\n", ckpt_last_error());
  ckpt_free(session);
  ckpt_model_free(model);
  ckpt_options_free(options);
  return ok ? 0 : 1;
}
