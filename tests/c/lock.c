/* One process at a time under a template: who is refused, who waits, and what becomes of the lock of a dead one. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include "process.h"

#ifdef __linux__
#include <sys/syscall.h>
#endif

enum { elements = 1000 };

#define TEMPLATE "lock/{epoch}.weights.h5"

static float *weights;
static ckpt_model *model;
/* Told by those who wait for a template. */
static wire waiting;

static void hear_line(ckpt_log_level level, const char *message, void *user) {
  (void)user;
  if (level == CKPT_LOG_WARN && strstr(message, "is in use: waits until process"))
    tell(waiting);
}

static ckpt_options *options(ckpt_lock lock) {
  ckpt_options *o = NULL;
  OK(ckpt_options_new(&o));
  OK(ckpt_options_set_save_weights_only(o, true));
  OK(ckpt_options_set_durability(o, CKPT_DURABILITY_NONE));
  OK(ckpt_options_set_lock(o, lock));
  OK(ckpt_options_set_log(o, hear_line, NULL));
  return o;
}

static ckpt *session(const char *template, ckpt_lock lock) {
  ckpt_options *o = options(lock);
  ckpt *s = NULL;
  OK(ckpt_new(template, o, &s));
  ckpt_options_free(o);
  return s;
}

static void refused(const char *template) {
  ckpt_options *o = options(CKPT_LOCK_FAIL);
  ckpt *s = NULL;
  FAILS(ckpt_new(template, o, &s), CKPT_E_STATE, "another process uses the file path");
  CHECK(strstr(ckpt_last_error(), template) && strstr(ckpt_last_error(), ".ckpt-lock-"));
  CHECK(s == NULL);
  ckpt_options_free(o);
}

static void save(ckpt *s, uint64_t epoch) {
  for (size_t i = 0; i < elements; i++)
    weights[i] = (float)epoch;
  OK(ckpt_on_epoch_end(s, epoch, NULL, 0));
  OK(ckpt_save(s, model));
}

/* The child tells when it has the template, and ends when it hears. */
typedef struct talk {
  const char *template;
  wire up, down;
} talk;

static talk new_talk(const char *template) { return (talk){template, new_wire(), new_wire()}; }

static void drop_talk(talk t) { drop_wire(t.up), drop_wire(t.down); }

static void hold(void *argument) {
  talk *t = argument;
  ckpt *s = session(t->template, CKPT_LOCK_FAIL);
  tell(t->up);
  hear(t->down);
  ckpt_free(s);
}

static void is_refused(void *argument) { refused(((talk *)argument)->template); }

static void the_second_is_refused(void) {
  fresh_directory("lock");
  CHECK(mkdir("lock/below", 0777) == 0);
  CHECK(symlink("lock", "lock/below/link") == 0 && symlink("..", "lock/below/up") == 0);
  talk t = new_talk(TEMPLATE);
  pid_t pid = process(hold, &t);
  hear(t.up);
  refused(TEMPLATE);
  char holder[64];
  snprintf(holder, sizeof holder, "process %ld ", (long)pid);
  CHECK(strstr(ckpt_last_error(), holder));
  refused("./lock//{epoch}.weights.h5");
  refused("lock/below/up/{epoch}.weights.h5");
  ckpt_free(session("lock/other-{epoch}.weights.h5", CKPT_LOCK_FAIL));
  ckpt_free(session("lock/below/{epoch}.weights.h5", CKPT_LOCK_FAIL));
  ckpt_free(session(TEMPLATE, CKPT_LOCK_OFF));
  tell(t.down);
  ends(pid);
  CHECK(count("lock", ".ckpt") == 0);
  ckpt *s = session(TEMPLATE, CKPT_LOCK_FAIL);
  CHECK(count("lock", ".ckpt-lock") == 1);
  ckpt *other = session("lock/below/up/{epoch}.weights.h5", CKPT_LOCK_FAIL);
  save(s, 0);
  save(other, 1);
  ckpt_free(s);
  CHECK(count("lock", ".ckpt") == 1);
  ckpt_free(other);
  CHECK(count("lock", ".ckpt") == 0);
  drop_talk(t);
}

static void waits(void *argument) {
  talk *t = argument;
  ckpt *s = session(t->template, CKPT_LOCK_WAIT);
  save(s, 4);
  CHECK(exists("lock/3.weights.h5"));
  ckpt_free(s);
}

static void the_second_waits(void) {
  fresh_directory("lock");
  talk t = new_talk(TEMPLATE);
  pid_t first = process(hold, &t);
  hear(t.up);
  pid_t second = process(waits, &t);
  hear(waiting);
  /* What the second is to find. */
  CHECK(ckpt_model_save(model, "lock/3.weights.h5") == CKPT_OK);
  tell(t.down);
  ends(first);
  ends(second);
  CHECK(exists("lock/5.weights.h5") && count("lock", ".ckpt") == 0);

  /* The end of the first may be one that it could say nothing of. */
  first = process(hold, &t);
  hear(t.up);
  second = process(waits, &t);
  hear(waiting);
  is_killed(first);
  ends(second);
  CHECK(count("lock", ".ckpt") == 0);
  drop_talk(t);
}

static void a_killed_process_holds_nothing(void) {
  fresh_directory("lock");
  for (int i = 0; i < 20; i++) {
    talk t = new_talk(TEMPLATE);
    pid_t pid = process(hold, &t);
    hear(t.up);
    refused(TEMPLATE);
    is_killed(pid);
    CHECK(count("lock", ".ckpt-lock") == 1);
    ckpt_free(session(TEMPLATE, CKPT_LOCK_FAIL));
    CHECK(count("lock", ".ckpt") == 0);
    drop_talk(t);
  }
}

static void sleep_on(void *argument) {
  hear(*(wire *)argument);
}

/* A trainer with a child of its own, which goes on when the trainer is gone. The wires: it is ready; the child may end. */
static void with_fork(void *argument) {
  talk *t = argument;
  ckpt *s = session(t->template, CKPT_LOCK_FAIL);
  save(s, 0);
  process(sleep_on, &t->down);
  tell(t->up);
  pause();
  ckpt_free(s);
}

#ifdef SYS_clone
/* The same, but the library does not hear of the fork. */
static void with_clone(void *argument) {
  talk *t = argument;
  ckpt *s = session(t->template, CKPT_LOCK_FAIL);
  save(s, 0);
  long pid = syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L);
  CHECK(pid >= 0);
  if (pid == 0) {
    hear(t->down);
    _exit(0);
  }
  tell(t->up);
  pause();
  ckpt_free(s);
}
#endif

static void a_child_that_lives_on_holds_nothing(void (*trainer)(void *)) {
  for (int i = 0; i < 5; i++) {
    fresh_directory("lock");
    talk t = new_talk(TEMPLATE);
    pid_t pid = process(trainer, &t);
    hear(t.up);
    refused(TEMPLATE);
    is_killed(pid);
    ckpt *s = session(TEMPLATE, CKPT_LOCK_FAIL);
    save(s, 1);
    /* It has the template in earnest, whatever becomes of the child. */
    ends(process(is_refused, &t));
    tell(t.down);
    ends(process(is_refused, &t));
    ckpt_free(s);
    CHECK(count("lock", ".ckpt") == 0);
    drop_talk(t);
  }
}

/* A session goes on in a child: beside its parent, which keeps the lock, and after it. */
static void go_on(void *argument) {
  ckpt *s = argument;
  save(s, 1);
  ckpt_free(s);
}

typedef struct heir {
  ckpt *session;
  talk talk;
} heir;

static void inherit(void *argument) {
  heir *h = argument;
  hear(h->talk.down);
  save(h->session, 2);
  tell(h->talk.up);
  hear(h->talk.down);
  ckpt_free(h->session);
}

static void a_child_goes_on_with_the_session(void) {
  fresh_directory("lock");
  ckpt *s = session(TEMPLATE, CKPT_LOCK_FAIL);
  save(s, 0);
  ends(process(go_on, s));
  CHECK(exists("lock/2.weights.h5") && count("lock", ".ckpt-lock") == 1);
  heir h = {s, new_talk(TEMPLATE)};
  pid_t pid = process(inherit, &h);
  ckpt_free(s);
  CHECK(count("lock", ".ckpt") == 0);
  tell(h.talk.down);
  hear(h.talk.up);
  refused(TEMPLATE);
  tell(h.talk.down);
  ends(pid);
  CHECK(count("lock", ".ckpt") == 0);
  drop_talk(h.talk);
}

static bool fetch_works;

static ckpt_status fetch(void *dst, uint64_t offset, uint64_t nbytes, void *user) {
  (void)offset, (void)user;
  memset(dst, 0, (size_t)nbytes);
  return fetch_works ? CKPT_OK : CKPT_E_MISMATCH;
}

/* Where the directory is not there yet, the first save takes the lock. */
static void the_lock_of_a_directory_to_come(ckpt_async kind) {
  static const int64_t shape[] = {1000};
  ckpt_options *o = options(CKPT_LOCK_FAIL);
  ckpt_model *fetched = NULL;
  ckpt *s = NULL;
  fresh_directory("lock");
  talk t = new_talk("lock/a/b/{epoch}.weights.h5");
  OK(ckpt_options_set_async(o, kind));
  OK(ckpt_new(t.template, o, &s));
  CHECK(!exists("lock/a"));
  OK(ckpt_model_new(&fetched));
  OK(ckpt_model_add_source(fetched, "w", CKPT_DTYPE_F32, 1, shape, fetch, NULL, NULL));
  /* A save that fails leaves nothing. */
  fetch_works = false;
  OK(ckpt_on_epoch_end(s, 0, NULL, 0));
  CHECK((ckpt_save(s, fetched) | ckpt_wait(s)) != CKPT_OK);
  CHECK(!exists("lock/a"));
  /* Another one comes first. */
  fetch_works = true;
  CHECK(mkdir("lock/a", 0777) == 0 && mkdir("lock/a/b", 0777) == 0);
  pid_t pid = process(hold, &t);
  hear(t.up);
  OK(ckpt_on_epoch_end(s, 0, NULL, 0));
  CHECK((ckpt_save(s, fetched) | ckpt_wait(s)) == CKPT_E_STATE);
  FAILS(ckpt_prepare(s, fetched), CKPT_E_STATE, "another process uses the file path");
  CHECK(!exists("lock/a/b/1.weights.h5"));
  tell(t.down);
  ends(pid);
  CHECK(rmdir("lock/a/b") == 0 && rmdir("lock/a") == 0);
  OK(ckpt_on_epoch_end(s, 0, NULL, 0));
  OK(ckpt_save(s, fetched));
  OK(ckpt_wait(s));
  CHECK(exists("lock/a/b/1.weights.h5") && count("lock/a/b", ".ckpt-lock") == 1);
  ends(process(is_refused, &t));
  ckpt_free(s);
  CHECK(count("lock/a/b", ".ckpt") == 0);
  OK(ckpt_new("lock/c/{epoch}.weights.h5", o, &s));
  OK(ckpt_prepare(s, fetched));
  CHECK(count("lock/c", ".ckpt-lock") == 1);
  ckpt_free(s);
  ckpt_model_free(fetched);
  ckpt_options_free(o);
  drop_talk(t);
}

/* A wait in the background ends with the cancellation of its save. */
static void a_wait_is_cancelled(void) {
  static const char template[] = "lock/a/{epoch}.weights.h5";
  ckpt_options *o = options(CKPT_LOCK_WAIT);
  ckpt *s = NULL;
  fresh_directory("lock");
  talk t = new_talk(template);
  OK(ckpt_options_set_async(o, CKPT_ASYNC_COPY));
  OK(ckpt_new(template, o, &s));
  CHECK(mkdir("lock/a", 0777) == 0);
  pid_t pid = process(hold, &t);
  hear(t.up);
  save(s, 0);
  hear(waiting);
  OK(ckpt_cancel(s));
  CHECK(ckpt_wait(s) == CKPT_E_CANCELLED);
  save(s, 1);
  tell(t.down);
  OK(ckpt_wait(s));
  ends(pid);
  CHECK(exists("lock/a/2.weights.h5") && !exists("lock/a/1.weights.h5"));
  ckpt_free(s);
  ckpt_options_free(o);
  drop_talk(t);
}

int main(void) {
  static const int64_t shape[] = {elements};
  alarm(120);
  waiting = new_wire();
  weights = calloc(elements, sizeof *weights);
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "w", CKPT_DTYPE_F32, 1, shape, NULL, weights));
  the_second_is_refused();
  the_second_waits();
  a_killed_process_holds_nothing();
  a_child_that_lives_on_holds_nothing(with_fork);
#ifdef SYS_clone
  a_child_that_lives_on_holds_nothing(with_clone);
#endif
  a_child_goes_on_with_the_session();
  the_lock_of_a_directory_to_come(CKPT_ASYNC_OFF);
  the_lock_of_a_directory_to_come(CKPT_ASYNC_BORROW);
  a_wait_is_cancelled();
  ckpt_model_free(model);
  free(weights);
  return 0;
}
