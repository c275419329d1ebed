/* Saves while a stream keeps writing: each file holds what the stream had written by the call of ckpt_save(), all of it.
   And the proof that the test can see: without the event, or without ckpt_cuda_wait(), files are torn, which
   ckpt_cuda_check() finds out. usage: saves off|copy|borrow|no-fence|no-wait|check SAVES */
#include "scene.h"

#define FILE_NAME "saves.weights.h5"

static const struct {
  const char *name;
  ckpt_async kind;
  bool fence, wait, check, torn;
} runs[] = {
    {"off", CKPT_ASYNC_OFF, true, true, false, false},       {"copy", CKPT_ASYNC_COPY, true, true, false, false},
    {"borrow", CKPT_ASYNC_BORROW, true, true, false, false}, {"no-fence", CKPT_ASYNC_OFF, false, true, false, true},
    {"no-wait", CKPT_ASYNC_BORROW, true, false, false, true}, {"check", CKPT_ASYNC_BORROW, true, false, true, false},
};

int main(int argc, char **argv) {
  const int n = argc == 3 ? atoi(argv[2]) : 0;
  size_t run = 0;
  int torn = 0, caught = 0;
  scene s;
  ckpt *session;
  CHECK(argc == 3 && n > 0);
  while (strcmp(runs[run].name, argv[1]) != 0)
    CHECK(++run < sizeof runs / sizeof *runs);
  s = new_scene();
  session = session_of(FILE_NAME, runs[run].kind);
  OK(add_all(s.model, &s));
  OK(ckpt_cuda_check(s.model, runs[run].check));
  stub_ignore_waits(!runs[run].fence);
  for (int i = 0; i < n; i++) {
    ckpt_status status;
    remove(FILE_NAME);
    due(session, (uint64_t)i);
    fill(&s, (float)i);
    OK(ckpt_save(session, s.model));
    CUDA(stub_sleep(200, s.stream)); /* what only reads them */
    if (runs[run].kind == CKPT_ASYNC_BORROW && runs[run].wait)
      OK(ckpt_cuda_wait(session, s.stream));
    fill(&s, (float)i + 0.5f);
    status = ckpt_wait(session);
    if (runs[run].check && status == CKPT_E_STATE) {
      CHECK(strstr(ckpt_last_error(), "returned CKPT_E_STATE: tensor '"));
      CHECK(strstr(ckpt_last_error(), "' has changed on the device while it was being saved: call ckpt_cuda_wait()"));
      CHECK(!exists(FILE_NAME));
      caught++;
      continue;
    }
    CHECK(status == CKPT_OK);
    torn += !holds(FILE_NAME, (float)i);
  }
  printf("%d of %d saves did not hold what the stream had written, %d were not made\n", torn, n, caught);
  CHECK((torn > 0) == runs[run].torn && (caught > 0) == runs[run].check);
  ckpt_free(session);
  free_scene(&s);
  CHECK(stub_live() == 0 && stub_pageable() == 0);
  return 0;
}
