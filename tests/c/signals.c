/* Saves that a signal asks for: due once, whoever listened before is still heard, and is alone again at the end. */
#define _XOPEN_SOURCE 700
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static float weights[4];

static ckpt_model *new_model(void) {
  static const int64_t shape[] = {4};
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 1, shape, NULL, weights));
  return model;
}

static ckpt *new_session(const char *filepath, int signum, int other) {
  ckpt_options *options = NULL;
  ckpt *session = NULL;
  OK(ckpt_options_new(&options));
  OK(ckpt_options_set_save_weights_only(options, true));
  OK(ckpt_options_set_save_freq(options, CKPT_SAVE_FREQ_NEVER));
  OK(ckpt_options_set_save_on_signal(options, signum));
  if (other != 0)
    OK(ckpt_options_set_save_on_signal(options, other));
  OK(ckpt_new(filepath, options, &session));
  ckpt_options_free(options);
  return session;
}

static bool due_after_batch(ckpt *session, uint64_t batch) {
  OK(ckpt_on_train_batch_end(session, batch, NULL, 0));
  return ckpt_should_save(session);
}

static struct sigaction disposition(int signum) {
  struct sigaction found;
  CHECK(sigaction(signum, NULL, &found) == 0);
  return found;
}

static bool is_default(int signum) {
  return disposition(signum).sa_handler == SIG_DFL;
}

/* A trainer that is told to end: it saves, and ends by itself. */
static void preemption(void) {
  ckpt_model *model = new_model();
  ckpt *session = new_session("signals/{epoch}-{batch}.weights.h5", SIGTERM, 0);
  CHECK(!ckpt_preempted(session) && !ckpt_preempted(NULL));
  CHECK((disposition(SIGTERM).sa_flags & (SA_RESTART | SA_ONSTACK)) == (SA_RESTART | SA_ONSTACK));
  CHECK(!due_after_batch(session, 0));
  CHECK(raise(SIGTERM) == 0); /* does not end this program */
  CHECK(ckpt_preempted(session) && !ckpt_should_save(session));
  CHECK(due_after_batch(session, 1) && strcmp(ckpt_path(session), "signals/1-2.weights.h5") == 0);
  OK(ckpt_save(session, model));
  CHECK(exists("signals/1-2.weights.h5") && ckpt_preempted(session));
  CHECK(!due_after_batch(session, 2)); /* once */

  CHECK(raise(SIGTERM) == 0 && raise(SIGTERM) == 0);
  OK(ckpt_on_epoch_end(session, 0, NULL, 0));
  CHECK(ckpt_should_save(session) && strcmp(ckpt_path(session), "signals/1-3.weights.h5") == 0);
  OK(ckpt_on_epoch_begin(session, 1));
  CHECK(!due_after_batch(session, 0));
  ckpt_free(session);
  CHECK(is_default(SIGTERM));
  ckpt_model_free(model);
}

static volatile sig_atomic_t plain_calls, info_calls;
static volatile pid_t sender;

static void plain(int signum) {
  plain_calls += signum == SIGUSR1;
}

static void with_info(int signum, siginfo_t *info, void *context) {
  info_calls += signum == SIGUSR2 && context != NULL;
  sender = info->si_pid;
}

static void handlers_before(void) {
  struct sigaction action, before;
  memset(&action, 0, sizeof action);
  sigemptyset(&action.sa_mask);
  sigaddset(&action.sa_mask, SIGALRM);
  action.sa_handler = plain;
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  action.sa_sigaction = with_info;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
  action.sa_handler = SIG_IGN;
  action.sa_flags = 0;
  CHECK(sigaction(SIGHUP, &action, &before) == 0);

  ckpt *session = new_session("signals/a.weights.h5", SIGUSR1, SIGUSR2);
  ckpt *ignored = new_session("signals/b.weights.h5", SIGHUP, 0);
  CHECK((disposition(SIGUSR1).sa_flags & SA_RESTART) == 0); /* it counts on interrupted calls */
  CHECK((disposition(SIGUSR2).sa_flags & SA_RESTART) != 0);
  action = disposition(SIGUSR1);
  CHECK(sigismember(&action.sa_mask, SIGALRM));
  CHECK(raise(SIGUSR1) == 0 && plain_calls == 1);
  CHECK(due_after_batch(session, 0) && !due_after_batch(session, 1));
  CHECK(kill(getpid(), SIGUSR2) == 0 && info_calls == 1 && sender == getpid());
  CHECK(due_after_batch(session, 2) && !due_after_batch(session, 3));
  CHECK(!ckpt_preempted(ignored) && raise(SIGHUP) == 0 && ckpt_preempted(ignored));
  ckpt_free(session);
  ckpt_free(ignored);
  CHECK(disposition(SIGUSR1).sa_handler == plain && disposition(SIGHUP).sa_handler == SIG_IGN);
  CHECK(disposition(SIGUSR2).sa_sigaction == with_info && (disposition(SIGUSR2).sa_flags & SA_SIGINFO));
  CHECK(raise(SIGUSR1) == 0 && plain_calls == 2);
  CHECK(sigaction(SIGHUP, &before, NULL) == 0);
}

static void two_sessions(void) {
  CHECK(signal(SIGUSR1, plain) != SIG_ERR);
  plain_calls = 0;
  ckpt *first = new_session("signals/c.weights.h5", SIGUSR1, 0);
  CHECK(raise(SIGUSR1) == 0);
  ckpt *second = new_session("signals/d.weights.h5", SIGUSR1, SIGUSR1);
  CHECK(ckpt_preempted(first) && !ckpt_preempted(second)); /* it came before */
  CHECK(due_after_batch(first, 0) && !due_after_batch(second, 0));
  CHECK(raise(SIGUSR1) == 0 && plain_calls == 2);
  CHECK(due_after_batch(first, 1) && due_after_batch(second, 1));
  ckpt_free(first);
  CHECK(disposition(SIGUSR1).sa_handler != plain);
  CHECK(raise(SIGUSR1) == 0 && plain_calls == 3);
  CHECK(due_after_batch(second, 2));
  ckpt_free(second);
  CHECK(disposition(SIGUSR1).sa_handler == plain);
}

static struct sigaction below;
static volatile sig_atomic_t above_calls;

static void above(int signum, siginfo_t *info, void *context) {
  above_calls++;
  below.sa_sigaction(signum, info, context);
}

/* A handler that is set later calls ours, and stays when the session goes. */
static void a_handler_after(void) {
  struct sigaction action;
  CHECK(signal(SIGUSR1, plain) != SIG_ERR);
  plain_calls = 0;
  ckpt *session = new_session("signals/e.weights.h5", SIGUSR1, 0);
  memset(&action, 0, sizeof action);
  action.sa_sigaction = above;
  action.sa_flags = SA_SIGINFO;
  CHECK(sigaction(SIGUSR1, &action, &below) == 0);
  CHECK(raise(SIGUSR1) == 0 && above_calls == 1 && plain_calls == 1 && ckpt_preempted(session));
  ckpt_free(session);
  CHECK(disposition(SIGUSR1).sa_sigaction == above);
  CHECK(raise(SIGUSR1) == 0 && above_calls == 2 && plain_calls == 2);

  /* The next one is heard through it, each once. */
  session = new_session("signals/e.weights.h5", SIGUSR1, 0);
  CHECK(disposition(SIGUSR1).sa_sigaction == above);
  CHECK(raise(SIGUSR1) == 0 && above_calls == 3 && plain_calls == 3);
  CHECK(due_after_batch(session, 0) && !due_after_batch(session, 1));

  /* It goes, and does not put ours back, but what was there before it: the next session sees to itself. */
  CHECK(signal(SIGUSR1, plain) != SIG_ERR);
  ckpt_free(session);
  CHECK(disposition(SIGUSR1).sa_handler == plain);
  session = new_session("signals/e.weights.h5", SIGUSR1, 0);
  CHECK(raise(SIGUSR1) == 0 && plain_calls == 4 && ckpt_preempted(session));
  CHECK(signal(SIGUSR1, plain) != SIG_ERR);
  ckpt *second = new_session("signals/f.weights.h5", SIGUSR1, 0);
  CHECK(raise(SIGUSR1) == 0 && plain_calls == 5 && ckpt_preempted(second));
  ckpt_free(session);
  ckpt_free(second);
  CHECK(disposition(SIGUSR1).sa_handler == plain);
  CHECK(signal(SIGUSR1, SIG_DFL) != SIG_ERR);
}

static void alone(int signum) { plain_calls += signum == SIGTERM; }

static struct sigaction guarded_before;

/* A part of the program that has a handler of its own while it runs, over that of a session that ends before it. */
static void guarded_part(void) {
  struct sigaction action;
  ckpt *session = new_session("signals/i.weights.h5", SIGTERM, 0);
  memset(&action, 0, sizeof action);
  action.sa_handler = alone;
  CHECK(sigaction(SIGTERM, &action, &guarded_before) == 0);
  ckpt_free(session);
  plain_calls = 0;
  CHECK(raise(SIGTERM) == 0 && plain_calls == 1);
  CHECK(sigaction(SIGTERM, &guarded_before, NULL) == 0); /* the session's, of which nothing is left */
}

static void calls_the_one_before(int signum, siginfo_t *info, void *context) {
  guarded_before.sa_sigaction(signum, info, context);
}

/* How a child ended: the signal, or 0 if it went on to its end. */
static int end_of(pid_t child) {
  int status;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* A worker that was forked from the trainer ends by SIGTERM as ever; one with a session of its own listens. */
static void forked(void) {
  ckpt *session = new_session("signals/g.weights.h5", SIGTERM, 0);
  pid_t child = fork();
  if (child == 0) {
    raise(SIGTERM);
    _exit(0);
  }
  CHECK(end_of(child) == SIGTERM);
  CHECK(!ckpt_preempted(session));
  child = fork();
  if (child == 0) {
    ckpt *own = new_session("signals/h.weights.h5", SIGTERM, 0);
    CHECK(raise(SIGTERM) == 0 && ckpt_preempted(own) && due_after_batch(own, 0));
    ckpt_free(own);
    raise(SIGTERM);
    _exit(0);
  }
  CHECK(end_of(child) == SIGTERM);
  CHECK(raise(SIGTERM) == 0 && ckpt_preempted(session));
  ckpt_free(session);
  CHECK(is_default(SIGTERM));
}

/* Our handler, put back after the last session, does what the system would have done. */
static void put_back(void) {
  pid_t child = fork();
  if (child == 0) {
    guarded_part();
    raise(SIGTERM);
    _exit(0);
  }
  CHECK(end_of(child) == SIGTERM);
  child = fork();
  if (child == 0) {
    struct sigaction action;
    guarded_part();
    /* Called by another handler, it leaves it to that what becomes of the program. */
    memset(&action, 0, sizeof action);
    action.sa_sigaction = calls_the_one_before;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGTERM, &action, NULL) == 0);
    CHECK(raise(SIGTERM) == 0);
    CHECK(sigaction(SIGTERM, &guarded_before, NULL) == 0);
    ckpt *session = new_session("signals/j.weights.h5", SIGTERM, 0);
    CHECK(raise(SIGTERM) == 0 && ckpt_preempted(session));
    ckpt_free(session);
    CHECK(is_default(SIGTERM));
    _exit(0);
  }
  CHECK(end_of(child) == 0);
}

enum { THREADS = 3, SESSIONS = 100, SIGNALS = 3000 };

static void *come_and_go(void *filepath) {
  for (int i = 0; i < SESSIONS; i++)
    ckpt_free(new_session(filepath, SIGUSR1, SIGUSR2));
  return NULL;
}

/* Whoever listened before hears every one, while sessions of other threads come and go. */
static void sessions_come_and_go(void) {
  static char paths[THREADS][32];
  pthread_t threads[THREADS];
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = plain;
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  plain_calls = 0;
  for (int i = 0; i < THREADS; i++) {
    snprintf(paths[i], sizeof paths[i], "signals/t%d.weights.h5", i);
    CHECK(pthread_create(&threads[i], NULL, come_and_go, paths[i]) == 0);
  }
  for (int i = 0; i < SIGNALS; i++)
    CHECK(raise(SIGUSR1) == 0 && plain_calls == i + 1);
  for (int i = 0; i < THREADS; i++)
    CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(disposition(SIGUSR1).sa_handler == plain && disposition(SIGUSR2).sa_sigaction == with_info);
  CHECK(signal(SIGUSR1, SIG_DFL) != SIG_ERR);
}

static void refused(void) {
  static const int bad[] = {0, -1, SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, 10000};
  ckpt_options *options = NULL;
  OK(ckpt_options_new(&options));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    FAILS(ckpt_options_set_save_on_signal(options, bad[i]), CKPT_E_INVALID_ARGUMENT, "signum is ");
#ifdef __linux__
  FAILS(ckpt_options_set_save_on_signal(options, SIGRTMIN - 1), CKPT_E_INVALID_ARGUMENT, "there is no such signal");
  OK(ckpt_options_set_save_on_signal(options, SIGRTMAX));
#endif
  ckpt_options_free(options);
}

int main(void) {
  fresh_directory("signals");
  CHECK(signal(SIGTERM, SIG_DFL) != SIG_ERR);
  preemption();
  handlers_before();
  two_sessions();
  a_handler_after();
  forked();
  put_back();
  sessions_come_and_go();
  refused();
  return 0;
}
