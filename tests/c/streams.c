/* A host that has closed its standard streams, and prints to them all the same, harms no checkpoint. */
#include <pthread.h>
#include <unistd.h>

#include "check.h"

static volatile bool saved;

/* Prints to every standard stream until the saves are over; gives how many bytes went somewhere. */
static void *print(void *unused) {
  static ssize_t written;
  (void)unused;
  while (!saved)
    for (int fd = 0; fd <= 2; fd++)
      if (write(fd, "lost", 4) > 0) written += 4;
  return &written;
}

int main(void) {
  enum { n = 1 << 20 };
  const int64_t shape[] = {n};
  float *values = calloc(n, sizeof *values);
  ckpt_model *model = NULL;
  ckpt_reader *reader = NULL;
  ckpt_status status = CKPT_OK;
  pthread_t printer;
  void *written = NULL;
  int console = dup(2);
  CHECK(values != NULL && console > 2);
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "x", CKPT_DTYPE_F32, 1, shape, NULL, values));

  for (int fd = 0; fd <= 2; fd++) close(fd);
  if (pthread_create(&printer, NULL, print, NULL) != 0) return 1;
  for (int i = 0; i < 20 && status == CKPT_OK; i++) status = ckpt_model_save(model, "streams.weights.h5");
  saved = true;
  pthread_join(printer, &written);
  for (int fd = 0; fd <= 2; fd++) dup2(console, fd);

  OK(status);
  CHECK(*(ssize_t *)written == 0);
  OK(ckpt_reader_open("streams.weights.h5", &reader));
  OK(ckpt_reader_verify(reader));
  ckpt_reader_free(reader);
  ckpt_model_free(model);
  free(values);
  close(console);
  return 0;
}
