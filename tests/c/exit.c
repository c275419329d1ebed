/* How a process ends while a save is being made in the background: what was copied is written, what was not is cancelled,
   and nothing of it is left. Each case is a process of its own: this program, with the name of the case. */
#define _XOPEN_SOURCE 700
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { elements = 8 << 20, bytes = elements * (int)sizeof(float) };

static float *weights;
static ckpt_model *model;
static volatile int gone;
static uint64_t keep_last;
static int begun;

static bool set_begun(bool now) { return __atomic_exchange_n(&begun, now, __ATOMIC_SEQ_CST); }

static bool has_begun(void) { return __atomic_load_n(&begun, __ATOMIC_SEQ_CST); }

static void fill(float value) {
  for (size_t i = 0; i < elements; i++)
    weights[i] = value;
}

static void make_model(void) {
  static const int64_t shape[] = {elements};
  weights = malloc(bytes);
  fill(1.0f);
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "w", CKPT_DTYPE_F32, 1, shape, NULL, weights));
}

static void pause_ms(long ms);

/* A tensor that is not in memory: the value that it has here. */
static ckpt_status give(void *dst, uint64_t offset, uint64_t nbytes, void *user) {
  (void)offset, (void)user;
  for (size_t i = 0; i < nbytes / sizeof(float); i++)
    ((float *)dst)[i] = 3.0f;
  return CKPT_OK;
}

/* One whose owner gives up, when the thread that writes has nothing to do but wait for it. */
static ckpt_status give_up(void *dst, uint64_t offset, uint64_t nbytes, void *user) {
  (void)dst, (void)offset, (void)nbytes, (void)user;
  pause_ms(100);
  exit(0);
}

static void use_source(ckpt_fetch_fn fetch) {
  static const int64_t shape[] = {elements};
  ckpt_model_free(model);
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add_source(model, "w", CKPT_DTYPE_F32, 1, shape, fetch, NULL, NULL));
}

static void pause_ms(long ms) {
  const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

/* The first block has been written. The thread that writes stays here for a while. */
static void linger(const char *path, uint64_t done, uint64_t total, void *user) {
  (void)path, (void)user;
  CHECK(!gone);
  if (done == total)
    return;
  set_begun(true);
  pause_ms(200);
}

static void leave(const char *path, uint64_t done, uint64_t total, void *user) {
  (void)path, (void)done, (void)total, (void)user;
  exit(0);
}

static void hear(ckpt_log_level level, const char *message, void *user) {
  (void)level, (void)message, (void)user;
  CHECK(!gone);
}

/* Registered before the library's own, so called after it. */
static void check_after(void) { gone = 1; }

static ckpt *session(ckpt_async kind, ckpt_progress_fn progress, uint64_t staging) {
  ckpt_options *o = NULL;
  ckpt *s = NULL;
  OK(ckpt_options_new(&o));
  OK(ckpt_options_set_save_weights_only(o, true));
  OK(ckpt_options_set_async(o, kind));
  OK(ckpt_options_set_staging_limit(o, staging));
  OK(ckpt_options_set_keep_last(o, keep_last));
  OK(ckpt_options_set_recycle(o, true));
  OK(ckpt_options_set_progress(o, progress, NULL));
  OK(ckpt_options_set_log(o, hear, NULL));
  OK(ckpt_options_set_verbose(o, 1));
  OK(ckpt_new("exit/{epoch}.weights.h5", o, &s));
  ckpt_options_free(o);
  return s;
}

static void save(ckpt *s, uint64_t epoch) {
  OK(ckpt_on_epoch_end(s, epoch, NULL, 0));
  OK(ckpt_save(s, model));
}

static void wait_until_begun(void) {
  while (!has_begun())
    pause_ms(1);
}

static void *save_once_more(void *session) {
  ckpt *s = session;
  ckpt_status status = ckpt_on_epoch_end(s, 2, NULL, 0);
  CHECK(status == CKPT_OK);
  status = ckpt_save(s, model);
  CHECK(status == CKPT_E_CANCELLED || status == CKPT_E_STATE || status == CKPT_OK);
  return NULL;
}

/* What becomes of the old file at 1, and of 2: their values, or 0 for no such file. */
typedef struct ending {
  const char *name;
  float one, two;
} ending;

static const ending endings[] = {
    {"copy-exit", 3, 0},     {"copy-return", 3, 0},  {"copy-two", 3, 4},   {"copy-half", 2, 0},
    {"copy-recycles-two", 0, 4},
    {"borrow-exit", 2, 0},   {"borrow-return", 2, 0}, {"borrow-two", 2, 0}, {"borrow-blocked", 2, 0},
    {"callback-exit", 2, 0}, {"freed-late", 3, 0},    {"kill", 2, 0},
    /* In a function that a helper of the thread calls; in one that the thread waits for. */
    {"callback-exit-source", 2, 0}, {"copy-fetch-exit", 2, 0},
};

static ckpt *late;

static void free_late(void) {
  ckpt_free(late);
  late = NULL;
}

static int end(const char *name) {
  bool copy = strncmp(name, "copy", 4) == 0 || strcmp(name, "freed-late") == 0;
  bool two = strstr(name, "two") || strstr(name, "blocked");
  pthread_t id;
  alarm(60);
  make_model();
  CHECK(atexit(check_after) == 0);
  if (strcmp(name, "freed-late") == 0)
    CHECK(atexit(free_late) == 0);
  keep_last = strstr(name, "recycles") != NULL;
  fill(2.0f);
  OK(ckpt_model_save(model, "exit/1.weights.h5"));
  ckpt *s = late = session(copy ? CKPT_ASYNC_COPY : CKPT_ASYNC_BORROW,
                           strncmp(name, "callback-exit", 13) == 0 ? leave : linger,
                           strcmp(name, "copy-half") == 0 ? 4 << 20 : 0);
  fill(3.0f);
  if (strcmp(name, "callback-exit-source") == 0)
    use_source(give);
  if (strcmp(name, "copy-fetch-exit") == 0)
    use_source(give_up);
  if (strcmp(name, "copy-half") == 0) {
    /* This thread would not come out of it before most is written. */
    CHECK(pthread_create(&id, NULL, save_once_more, s) == 0);
    OK(ckpt_on_epoch_begin(s, 0));
    wait_until_begun();
    exit(0);
  }
  save(s, 0);
  if (copy)
    fill(4.0f);
  if (strncmp(name, "callback-exit", 13) == 0)
    for (;;)
      pause();
  if (two)
    save(s, 1);
  if (strcmp(name, "borrow-blocked") == 0)
    CHECK(pthread_create(&id, NULL, save_once_more, s) == 0);
  wait_until_begun();
  if (strcmp(name, "kill") == 0)
    raise(SIGKILL);
  if (copy) {
    fill(5.0f);
    ckpt_model_free(model);
    free(weights);
  }
  if (strstr(name, "return"))
    return 0;
  exit(0);
}

/* The value of a checkpoint; 0 where there is none. */
static float value(const char *path) {
  ckpt_reader *r = NULL;
  size_t index;
  if (!exists(path))
    return 0;
  OK(ckpt_reader_open(path, &r));
  OK(ckpt_reader_verify(r));
  OK(ckpt_reader_find(r, "w", &index));
  OK(ckpt_reader_read(r, index, weights, bytes));
  ckpt_reader_free(r);
  for (size_t i = 0; i < elements; i++)
    CHECK(weights[i] == weights[0]);
  return weights[0];
}

static int temporary_files(void) {
  int count = 0;
  DIR *dir = opendir("exit");
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
    count += strncmp(entry->d_name, ".ckpt", 5) == 0;
  closedir(dir);
  return count;
}

int main(int argc, char **argv) {
  if (argc == 2)
    return end(argv[1]);
  make_model();
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    const ending *e = &endings[i];
    int status;
    fresh_directory("exit");
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      execl(argv[0], argv[0], e->name, (char *)NULL);
      _exit(127);
    }
    CHECK(waitpid(child, &status, 0) == child);
    bool killed = strcmp(e->name, "kill") == 0;
    /* Nobody comes back from exit() to the thread that writes either. */
    bool left = killed || strncmp(e->name, "callback-exit", 13) == 0;
    float one = value("exit/1.weights.h5"), two = value("exit/2.weights.h5");
    if ((killed ? !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL : status != 0) || one != e->one ||
        two != e->two || (temporary_files() > 0) != left || exists("exit/3.weights.h5")) {
      fprintf(stderr, "%s: status %x, files of %g and %g, %d temporary files\n", e->name, (unsigned)status, one, two,
              temporary_files());
      return 1;
    }
    ckpt_free(session(CKPT_ASYNC_OFF, NULL, 0));
    CHECK(temporary_files() == 0);
  }
  ckpt_model_free(model);
  free(weights);
  return 0;
}
