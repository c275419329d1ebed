/* The usual loop, seen from C: what is due and where it goes, what Keras says of it, what a failure leaves. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mount.h>
#endif

/* The log lines since the last look, one after the other. */
static char lines[4096];

static void take_line(ckpt_log_level level, const char *message, void *user) {
  static const char levels[] = "EWID";
  char *end = lines + strlen(lines);
  CHECK(user == lines);
  snprintf(end, sizeof lines - (size_t)(end - lines), "%c %s\n", levels[level], message);
}

static void expect_lines(const char *expected) {
  if (strcmp(lines, expected) != 0) {
    fprintf(stderr, "logged:\n%sexpected:\n%s", lines, expected);
    exit(1);
  }
  lines[0] = '\0';
}

static float weights[4];

static ckpt_model *new_model(void) {
  static const int64_t shape[] = {4};
  ckpt_model *model = NULL;
  OK(ckpt_model_new(&model));
  OK(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 1, shape, NULL, weights));
  return model;
}

static ckpt_options *new_options(void) {
  ckpt_options *options = NULL;
  OK(ckpt_options_new(&options));
  OK(ckpt_options_set_save_weights_only(options, true));
  return options;
}

static ckpt *new_session(const char *filepath, ckpt_options *options) {
  ckpt *session = NULL;
  OK(ckpt_new(filepath, options, &session));
  ckpt_options_free(options);
  return session;
}

static ckpt_status epoch_end(ckpt *session, uint64_t epoch, double val_loss) {
  const ckpt_metric logs[] = {{"loss", 9.0}, {"val_loss", val_loss}};
  return ckpt_on_epoch_end(session, epoch, logs, 2);
}

static void save(ckpt *session, const ckpt_model *model, const char *path) {
  CHECK(ckpt_should_save(session));
  CHECK(strcmp(ckpt_path(session), path) == 0);
  OK(ckpt_save(session, model));
  CHECK(!ckpt_should_save(session) && ckpt_path(session) == NULL);
  CHECK(exists(path));
}

static size_t files_in(const char *directory) {
  size_t n = 0;
  DIR *d = opendir(directory);
  CHECK(d != NULL);
  for (const struct dirent *e; (e = readdir(d)) != NULL;)
    n += e->d_name[0] != '.' || strncmp(e->d_name, ".ckpt-tmp", 9) == 0;
  closedir(d);
  return n;
}

static double best(const ckpt *session) {
  double value;
  OK(ckpt_best(session, &value));
  return value;
}

static void best_only(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  ckpt_stats stats;
  struct stat status;
  const char *path;
  OK(ckpt_options_set_save_best_only(options, true));
  OK(ckpt_options_set_verbose(options, 1));
  OK(ckpt_options_set_log(options, take_line, lines));
  ckpt *session = new_session("policy/{epoch:02d}-{val_loss:.2f}.weights.h5", options);
  OK(ckpt_prepare(session, model));
  CHECK(files_in("policy") == 0);

  weights[0] = 1;
  OK(epoch_end(session, 0, 1.0));
  save(session, model, "policy/01-1.00.weights.h5");
  expect_lines("I Epoch 1: val_loss improved from None to 1.00000, saving model to policy/01-1.00.weights.h5\n"
               "I Epoch 1: finished saving model to policy/01-1.00.weights.h5\n");
  OK(ckpt_last_stats(session, &stats));
  CHECK(stat("policy/01-1.00.weights.h5", &status) == 0 && stats.bytes == (uint64_t)status.st_size);
  CHECK(stats.copy_secs == 0 && stats.stall_secs > 0 && stats.write_secs >= 0 && stats.sync_secs >= 0);

  OK(epoch_end(session, 1, 1.0)); /* equal is not better */
  CHECK(!ckpt_should_save(session));
  FAILS(ckpt_save(session, model), CKPT_E_STATE, "due");
  expect_lines("I Epoch 2: val_loss did not improve from 1.00000\n");

  /* An event forgets a save that was due, and with it what would have been the best. */
  OK(epoch_end(session, 2, 0.5));
  CHECK(ckpt_should_save(session));
  OK(ckpt_on_epoch_begin(session, 3));
  CHECK(!ckpt_should_save(session) && ckpt_path(session) == NULL);
  FAILS(ckpt_save(session, model), CKPT_E_STATE, "due");
  CHECK(best(session) == 1.0);
  lines[0] = '\0';

  weights[0] = 4;
  OK(epoch_end(session, 3, 0.75));
  save(session, model, "policy/04-0.75.weights.h5");
  expect_lines("I Epoch 4: val_loss improved from 1.00000 to 0.75000, saving model to policy/04-0.75.weights.h5\n"
               "I Epoch 4: finished saving model to policy/04-0.75.weights.h5\n");
  CHECK(best(session) == 0.75);

  weights[0] = 5;
  OK(epoch_end(session, 4, 0.8));
  OK(ckpt_best_path(session, &path));
  CHECK(strcmp(path, "policy/04-0.75.weights.h5") == 0);
  OK(ckpt_load_best(session, model));
  CHECK(weights[0] == 4);

  /* The template needs the metric even when nothing would be saved. */
  const ckpt_metric logs[] = {{"loss", 9.0}};
  FAILS(ckpt_on_epoch_end(session, 5, logs, 1), CKPT_E_TEMPLATE, "val_loss");
  CHECK(!ckpt_should_save(session));
  CHECK(files_in("policy") == 2);
  ckpt_free(session);
  ckpt_model_free(model);
}

static void every_epoch(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  double value;
  const char *path;
  OK(ckpt_options_set_verbose(options, 1));
  OK(ckpt_options_set_log(options, take_line, lines));
  ckpt *session = new_session("policy/every.weights.h5", options);
  lines[0] = '\0';
  OK(epoch_end(session, 0, 1.0));
  save(session, model, "policy/every.weights.h5");
  OK(epoch_end(session, 1, 2.0));
  save(session, model, "policy/every.weights.h5");
  expect_lines("I Epoch 1: saving model to policy/every.weights.h5\n"
               "I Epoch 1: finished saving model to policy/every.weights.h5\n"
               "I Epoch 2: saving model to policy/every.weights.h5\n"
               "I Epoch 2: finished saving model to policy/every.weights.h5\n");
  FAILS(ckpt_best(session, &value), CKPT_E_NOT_FOUND, "best"); /* kept under save_best_only */

  /* The second save has replaced the first, so it is the best that stands. */
  OK(ckpt_best_path(session, &path));
  CHECK(strcmp(path, "policy/every.weights.h5") == 0);
  ckpt_free(session);
  ckpt_model_free(model);
}

static void metric_is_absent(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  OK(ckpt_options_set_save_best_only(options, true));
  OK(ckpt_options_set_log(options, take_line, lines));
  ckpt *session = new_session("policy/absent.weights.h5", options);
  OK(ckpt_on_epoch_end(session, 0, NULL, 0));
  expect_lines("W Can save best model only with val_loss available.\n");
  save(session, model, "policy/absent.weights.h5");
  ckpt_free(session);
  ckpt_model_free(model);
}

static void by_batches(void) {
  static const uint64_t batches[] = {0, 1, 2, 3, 4, 5, 0, 4};
  static const char *const due[] = {NULL, NULL, "policy/1-3.weights.h5", NULL,
                                    NULL, "policy/1-6.weights.h5", NULL, "policy/2-5.weights.h5"};
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  OK(ckpt_options_set_save_freq(options, 3));
  ckpt *session = new_session("policy/{epoch}-{batch}.weights.h5", options);
  for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
    if (i == 6) {
      OK(epoch_end(session, 0, 1.0));
      CHECK(!ckpt_should_save(session));
    }
    OK(ckpt_on_train_batch_end(session, batches[i], NULL, 0));
    CHECK(ckpt_should_save(session) == (due[i] != NULL));
    if (due[i])
      save(session, model, due[i]);
  }
  ckpt_free(session);
  ckpt_model_free(model);
}

static void threshold_and_delta(void) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  const ckpt_metric low[] = {{"score", 0.70}}, close[] = {{"score", 0.84}}, high[] = {{"score", 0.90}};
  OK(ckpt_options_set_save_best_only(options, true));
  OK(ckpt_options_set_monitor(options, "score"));
  OK(ckpt_options_set_mode(options, CKPT_MODE_MAX));
  OK(ckpt_options_set_initial_value_threshold(options, 0.8));
  OK(ckpt_options_set_min_delta(options, 0.05));
  ckpt *session = new_session("policy/delta{epoch}.weights.h5", options);
  CHECK(best(session) == 0.8);
  OK(ckpt_on_epoch_end(session, 0, low, 1));
  CHECK(!ckpt_should_save(session));
  OK(ckpt_on_epoch_end(session, 1, close, 1));
  CHECK(!ckpt_should_save(session));
  OK(ckpt_on_epoch_end(session, 2, high, 1));
  save(session, model, "policy/delta3.weights.h5");
  CHECK(best(session) == 0.9);
  ckpt_free(session);
  ckpt_model_free(model);
}

static void keep(void) {
  static const double val_loss[] = {5, 1, 4, 2, 3};
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  fresh_directory("policy/keep");
  OK(ckpt_model_save(model, "policy/keep/0.weights.h5")); /* not the session's */
  OK(ckpt_options_set_keep_last(options, 1));
  OK(ckpt_options_set_keep_best(options, 2));
  OK(ckpt_options_set_keep_every(options, 3));
  ckpt *session = new_session("policy/keep/{epoch}.weights.h5", options);
  for (uint64_t epoch = 0; epoch < 5; epoch++) {
    OK(epoch_end(session, epoch, val_loss[epoch]));
    OK(ckpt_save(session, model));
  }
  CHECK(exists("policy/keep/0.weights.h5"));
  CHECK(!exists("policy/keep/1.weights.h5"));
  CHECK(exists("policy/keep/2.weights.h5")); /* the best */
  CHECK(exists("policy/keep/3.weights.h5")); /* every third epoch */
  CHECK(exists("policy/keep/4.weights.h5")); /* the second best */
  CHECK(exists("policy/keep/5.weights.h5")); /* the last */
  CHECK(files_in("policy/keep") == 5);
  ckpt_free(session);
  ckpt_model_free(model);
}

/* A save into `directory` fails with this status; then `repair` makes it work, with a worse value than the lost one. */
static void failing_save(const char *directory, const char *filepath, const char *path, ckpt_status expected, int os,
                         void (*repair)(void)) {
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  double value;
  size_t before = files_in(directory);
  OK(ckpt_options_set_save_best_only(options, true));
  ckpt *session = new_session(filepath, options);
  OK(epoch_end(session, 0, 0.5));
  CHECK(ckpt_should_save(session));
  for (int i = 0; i < 2; i++) { /* it may be tried again */
    FAILS(ckpt_save(session, model), expected, directory);
    CHECK(ckpt_last_os_error() == os);
    CHECK(ckpt_should_save(session) && strcmp(ckpt_path(session), path) == 0);
    FAILS(ckpt_best(session, &value), CKPT_E_NOT_FOUND, "best");
  }
  CHECK(files_in(directory) == before);
  repair();
  OK(epoch_end(session, 0, 0.75));
  save(session, model, path);
  CHECK(best(session) == 0.75);
  ckpt_free(session);
  ckpt_model_free(model);
}

static void remove_directory(void) {
  CHECK(rmdir("policy/fail/target.weights.h5") == 0);
}

static void allow_writing(void) {
  CHECK(chmod("policy/readonly", 0755) == 0);
}

static void allow_size(void) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
  limit.rlim_cur = limit.rlim_max;
  CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

#ifdef __linux__
static void make_room(void) {
  CHECK(mount("tmpfs", "policy/full", "tmpfs", MS_REMOUNT, "size=1m") == 0);
}
#endif

static void failures(void) {
  fresh_directory("policy/fail");
  CHECK(mkdir("policy/fail/target.weights.h5", 0755) == 0);
  failing_save("policy/fail", "policy/fail/target.weights.h5", "policy/fail/target.weights.h5", CKPT_E_IO, EISDIR,
               remove_directory);

  if (geteuid() != 0) { /* root may write everywhere */
    fresh_directory("policy/readonly");
    CHECK(chmod("policy/readonly", 0555) == 0);
    failing_save("policy/readonly", "policy/readonly/{epoch}.weights.h5", "policy/readonly/1.weights.h5", CKPT_E_IO,
                 EACCES, allow_writing);
  }

  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
  limit.rlim_cur = 100;
  fresh_directory("policy/limit");
  signal(SIGXFSZ, SIG_IGN);
  CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  failing_save("policy/limit", "policy/limit/{epoch}.weights.h5", "policy/limit/1.weights.h5", CKPT_E_IO, EFBIG,
               allow_size);

#ifdef __linux__
  fresh_directory("policy/full");
  if (mount("tmpfs", "policy/full", "tmpfs", 0, "size=4k") == 0) {
    failing_save("policy/full", "policy/full/{epoch}.weights.h5", "policy/full/1.weights.h5", CKPT_E_NO_SPACE, ENOSPC,
                 make_room);
    CHECK(umount("policy/full") == 0);
  }
#endif
}

static void templates(void) {
  static const char *const never[] = {"{epoch",           "epoch}.keras",    "{}.keras",       "{0}.keras",
                                      "{epoch.real}.keras", "{epoch[0]}.keras", "{epoch:q}.keras", "{val_loss:d}.keras"};
  ckpt *session = NULL;
  for (size_t i = 0; i < sizeof never / sizeof *never; i++)
    FAILS(ckpt_new(never[i], NULL, &session), CKPT_E_TEMPLATE, never[i]);
  FAILS(ckpt_new("", NULL, &session), CKPT_E_INVALID_ARGUMENT, "filepath is empty");
  FAILS(ckpt_new("a.txt", NULL, &session), CKPT_E_UNSUPPORTED, "a.txt");
  FAILS(ckpt_new("a.safetensors", NULL, &session), CKPT_E_INVALID_ARGUMENT, "save_weights_only");
  FAILS(ckpt_new("a.weights.json", NULL, &session), CKPT_E_INVALID_ARGUMENT, "save_weights_only");
  FAILS(ckpt_new("a.weights.h5", NULL, &session), CKPT_E_INVALID_ARGUMENT, "save_weights_only");

  /* A key that only the logs could have: found out at the first event. */
  OK(ckpt_new("{batch}.keras", NULL, &session));
  FAILS(ckpt_on_epoch_end(session, 0, NULL, 0), CKPT_E_TEMPLATE, "'batch'");
  ckpt_free(session);
}

static void config_is_needed(void) {
  ckpt_model *model = new_model();
  ckpt *session = NULL;
  OK(ckpt_new("policy/{epoch}.keras", NULL, &session));
  FAILS(ckpt_prepare(session, model), CKPT_E_STATE, "ckpt_model_set_config");
  OK(epoch_end(session, 0, 1.0));
  FAILS(ckpt_save(session, model), CKPT_E_STATE, "ckpt_model_set_config");
  OK(ckpt_model_set_config(model, "{\"module\": \"keras\", \"class_name\": \"Sequential\", \"config\": {}}"));
  OK(ckpt_prepare(session, model));
  OK(epoch_end(session, 1, 1.0));
  save(session, model, "policy/2.keras");
  ckpt_free(session);
  ckpt_model_free(model);
}

/* Without a log function Keras' lines go to standard output; each begins and ends with a newline there. */
static void standard_output(void) {
  static const char expected[] = "\nEpoch 1: saving model to policy/out.weights.h5\n"
                                 "\nEpoch 1: finished saving model to policy/out.weights.h5\n";
  char text[256];
  ckpt_model *model = new_model();
  ckpt_options *options = new_options();
  fflush(stdout);
  int console = dup(1), file = open("policy/stdout.txt", O_RDWR | O_CREAT, 0644);
  CHECK(console >= 0 && file >= 0 && dup2(file, 1) == 1);
  OK(ckpt_options_set_verbose(options, 1));
  ckpt *session = new_session("policy/out.weights.h5", options);
  OK(epoch_end(session, 0, 1.0));
  OK(ckpt_save(session, model));
  CHECK(dup2(console, 1) == 1);
  ssize_t n = pread(file, text, sizeof text - 1, 0);
  CHECK(n >= 0);
  text[n] = '\0';
  if (strcmp(text, expected) != 0) {
    fprintf(stderr, "printed:\n%s\nexpected:\n%s\n", text, expected);
    exit(1);
  }
  close(file);
  close(console);
  ckpt_free(session);
  ckpt_model_free(model);
}

int main(void) {
#ifdef __linux__
  umount2("policy/full", MNT_DETACH); /* of a run that was cut off */
#endif
  fresh_directory("policy");
  best_only();
  every_epoch();
  metric_is_absent();
  by_batches();
  threshold_and_delta();
  keep();
  failures();
  templates();
  config_is_needed();
  standard_output();
  return 0;
}
