/// @file
/// A checkpointing session and its options. See ckpt.hpp.

#ifndef CKPT_SESSION_HPP
#define CKPT_SESSION_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "ckpt.h"
#include "ckpt_model.hpp"
#include "ckpt_types.hpp"

namespace libckpt {

/// The options of a session, to be chained: Options().monitor("val_loss").save_best_only().
class Options {
 public:
  /// Keras' defaults.
  Options() {
    ckpt_options* handle = nullptr;
    detail::check(ckpt_options_new(&handle));
    handle_.reset(handle);
  }

  /// The metric that decides what is best; "val_loss" by default.
  Options& monitor(CString metric) & { return set(ckpt_options_set_monitor, metric.c_str()); }
  Options&& monitor(CString metric) && { return std::move(monitor(metric)); }
  /// What counts as better; by the metric's name by default.
  Options& mode(Mode better) & { return set(ckpt_options_set_mode, static_cast<ckpt_mode>(better)); }
  Options&& mode(Mode better) && { return std::move(mode(better)); }
  /// Save only what is better than ever before.
  Options& save_best_only(bool on = true) & { return set(ckpt_options_set_save_best_only, on); }
  Options&& save_best_only(bool on = true) && { return std::move(save_best_only(on)); }
  /// Save the weights alone: the file path then ends in ".weights.h5".
  Options& save_weights_only(bool on = true) & { return set(ckpt_options_set_save_weights_only, on); }
  Options&& save_weights_only(bool on = true) && { return std::move(save_weights_only(on)); }
  /// Save every n batches; 0: at the end of each epoch; CKPT_SAVE_FREQ_NEVER: by neither.
  Options& save_freq(std::uint64_t batches) & { return set(ckpt_options_set_save_freq, batches); }
  Options&& save_freq(std::uint64_t batches) && { return std::move(save_freq(batches)); }
  /// Save where so many seconds have passed since the last save was due.
  Options& save_every_secs(double secs) & { return set(ckpt_options_set_save_every_secs, secs); }
  Options&& save_every_secs(double secs) && { return std::move(save_every_secs(secs)); }
  /// Save when this signal has come; may be called for several.
  Options& save_on_signal(int signum) & { return set(ckpt_options_set_save_on_signal, signum); }
  Options&& save_on_signal(int signum) && { return std::move(save_on_signal(signum)); }
  /// Save as often as this part of the training's time pays for.
  Options& overhead_budget(double fraction) & { return set(ckpt_options_set_overhead_budget, fraction); }
  Options&& overhead_budget(double fraction) && { return std::move(overhead_budget(fraction)); }
  /// Save as often as is best where failures are so many seconds apart, on average.
  Options& mtbf(double secs) & { return set(ckpt_options_set_mtbf, secs); }
  Options&& mtbf(double secs) && { return std::move(mtbf(secs)); }
  /// What becomes of a save where the monitored value is NaN.
  Options& on_nan(OnNan kind) & { return set(ckpt_options_set_on_nan, static_cast<ckpt_on_nan>(kind)); }
  Options&& on_nan(OnNan kind) && { return std::move(on_nan(kind)); }
  /// Load the best checkpoint when the training ends: see Session::on_train_end().
  Options& restore_best(bool on = true) & { return set(ckpt_options_set_restore_best, on); }
  Options&& restore_best(bool on = true) && { return std::move(restore_best(on)); }
  /// The best value to beat from the start.
  Options& initial_value_threshold(double value) & { return set(ckpt_options_set_initial_value_threshold, value); }
  Options&& initial_value_threshold(double value) && { return std::move(initial_value_threshold(value)); }
  /// By how much a value has to be better than the best.
  Options& min_delta(double delta) & { return set(ckpt_options_set_min_delta, delta); }
  Options&& min_delta(double delta) && { return std::move(min_delta(delta)); }
  /// Log what Keras prints under verbose=1.
  Options& verbose(int level = 1) & { return set(ckpt_options_set_verbose, level); }
  Options&& verbose(int level = 1) && { return std::move(verbose(level)); }
  /// How saves run beside the training.
  Options& async(Async kind) & { return set(ckpt_options_set_async, static_cast<ckpt_async>(kind)); }
  Options&& async(Async kind) && { return std::move(async(kind)); }
  /// What becomes of a save in the background while one is being made and another one waits.
  Options& backpressure(Backpressure kind) & {
    return set(ckpt_options_set_backpressure, static_cast<ckpt_backpressure>(kind));
  }
  Options&& backpressure(Backpressure kind) && { return std::move(backpressure(kind)); }
  /// The most bytes of staging memory; 0: what one checkpoint needs.
  Options& staging_limit(std::uint64_t bytes) & { return set(ckpt_options_set_staging_limit, bytes); }
  Options&& staging_limit(std::uint64_t bytes) && { return std::move(staging_limit(bytes)); }
  /// Where staging memory comes from; `user` lives as long as every session made from these options.
  Options& staging_allocator(ckpt_alloc_fn alloc, ckpt_dealloc_fn dealloc, void* user = nullptr) & {
    return set(ckpt_options_set_staging_allocator, alloc, dealloc, user);
  }
  Options&& staging_allocator(ckpt_alloc_fn alloc, ckpt_dealloc_fn dealloc, void* user = nullptr) && {
    return std::move(staging_allocator(alloc, dealloc, user));
  }
  /// How bytes reach the disk.
  Options& backend(Backend kind) & { return set(ckpt_options_set_backend, static_cast<ckpt_backend>(kind)); }
  Options&& backend(Backend kind) && { return std::move(backend(kind)); }
  /// What a finished save survives.
  Options& durability(Durability kind) & {
    return set(ckpt_options_set_durability, static_cast<ckpt_durability>(kind));
  }
  Options&& durability(Durability kind) && { return std::move(durability(kind)); }
  /// How many threads a save or a load may use; 0: as many as help.
  Options& threads(std::uint32_t n) & { return set(ckpt_options_set_threads, n); }
  Options&& threads(std::uint32_t n) && { return std::move(threads(n)); }
  /// The most bytes of tensors in one file, where a checkpoint is made of several.
  Options& max_shard_bytes(std::uint64_t bytes) & { return set(ckpt_options_set_max_shard_bytes, bytes); }
  Options&& max_shard_bytes(std::uint64_t bytes) && { return std::move(max_shard_bytes(bytes)); }
  /// Whether files that are no longer kept are written anew; by default where space is ample.
  Options& recycle(bool on = true) & { return set(ckpt_options_set_recycle, on); }
  Options&& recycle(bool on = true) && { return std::move(recycle(on)); }
  /// What becomes of a session whose file path another process uses.
  Options& lock(Lock kind) & { return set(ckpt_options_set_lock, static_cast<ckpt_lock>(kind)); }
  Options&& lock(Lock kind) && { return std::move(lock(kind)); }
  /// Keep the last n saves; 0: this rule is off.
  Options& keep_last(std::uint64_t n) & { return set(ckpt_options_set_keep_last, n); }
  Options&& keep_last(std::uint64_t n) && { return std::move(keep_last(n)); }
  /// Keep the k best saves; 0: this rule is off.
  Options& keep_best(std::uint64_t k) & { return set(ckpt_options_set_keep_best, k); }
  Options&& keep_best(std::uint64_t k) && { return std::move(keep_best(k)); }
  /// Keep the saves of every n-th epoch; 0: this rule is off.
  Options& keep_every(std::uint64_t epochs) & { return set(ckpt_options_set_keep_every, epochs); }
  Options&& keep_every(std::uint64_t epochs) && { return std::move(keep_every(epochs)); }
  /// Keep the first save, and each that was begun so many seconds after the last that this rule keeps; 0: it is off.
  Options& keep_every_secs(double secs) & { return set(ckpt_options_set_keep_every_secs, secs); }
  Options&& keep_every_secs(double secs) && { return std::move(keep_every_secs(secs)); }
  /// A stable name for the newest save: a hard link to its file, or a copy where there are no such links.
  Options& save_last(CString path) & { return set(ckpt_options_set_save_last, path.c_str()); }
  Options&& save_last(CString path) && { return std::move(save_last(path)); }
  /// Who receives the log lines; it lives as long as these options and every session made from them. An empty function
  /// takes it away.
  Options& log(LogFunction function) & {
    auto log = function ? std::make_shared<const LogFunction>(std::move(function)) : nullptr;
    set(ckpt_options_set_log, log ? &forward : nullptr, const_cast<LogFunction*>(log.get()));
    functions_.log = std::move(log);
    return *this;
  }
  Options&& log(LogFunction function) && { return std::move(log(std::move(function))); }
  /// Who hears how far saves have come, likewise.
  Options& progress(ProgressFunction function) & {
    auto progress = function ? std::make_shared<const ProgressFunction>(std::move(function)) : nullptr;
    set(ckpt_options_set_progress, progress ? &hear : nullptr, const_cast<ProgressFunction*>(progress.get()));
    functions_.progress = std::move(progress);
    return *this;
  }
  Options&& progress(ProgressFunction function) && { return std::move(progress(std::move(function))); }

  /// The handle of C's, still owned by this object.
  ckpt_options* get() const noexcept { return handle_.get(); }

 private:
  friend class Session;

  template <typename... Parameters, typename... Arguments>
  Options& set(ckpt_status (*setter)(ckpt_options*, Parameters...), Arguments... arguments) {
    detail::check(setter(handle_.get(), arguments...));
    return *this;
  }

  static void forward(ckpt_log_level level, const char* message, void* user) noexcept {
    try {
      (*static_cast<const LogFunction*>(user))(static_cast<LogLevel>(level), message);
    } catch (...) {  // See LogFunction.
    }
  }

  static void hear(const char* path, std::uint64_t done, std::uint64_t total, void* user) noexcept {
    try {
      (*static_cast<const ProgressFunction*>(user))(path, done, total);
    } catch (...) {  // See ProgressFunction.
    }
  }

  /// What C calls.
  struct Functions {
    std::shared_ptr<const LogFunction> log;
    std::shared_ptr<const ProgressFunction> progress;
  };

  detail::Handle<ckpt_options, ckpt_options_free> handle_;
  Functions functions_;
};

/// Where a training goes on.
struct ResumeInfo {
  /// What is to be run next, from 0.
  std::uint64_t epoch = 0;
  std::uint64_t batch = 0;
  /// The value to beat, if there is one.
  std::optional<double> best;
  /// The checkpoint.
  std::string path;
};

/// A checkpointing session: when to save, where, what is best and what to keep.
class Session {
 public:
  /// @param filepath  a Python format string, such as "checkpoints/{epoch:02d}-{val_loss:.3f}.keras"
  explicit Session(const Path& filepath) { open(filepath, nullptr); }
  Session(const Path& filepath, const Options& options) : handle_(nullptr, Close{options.functions_}) {
    open(filepath, options.get());
  }

  void on_epoch_begin(std::uint64_t epoch) { detail::check(ckpt_on_epoch_begin(handle_.get(), epoch)); }
  void on_train_batch_end(std::uint64_t batch, const Logs& logs) {
    detail::check(ckpt_on_train_batch_end(handle_.get(), batch, logs.data(), logs.size()));
  }
  void on_epoch_end(std::uint64_t epoch, const Logs& logs) {
    detail::check(ckpt_on_epoch_end(handle_.get(), epoch, logs.data(), logs.size()));
  }

  /// Waits for all saves; with Options::restore_best(), loads the best checkpoint into the model.
  void on_train_end(Model& model) {
    detail::check(ckpt_on_train_end(handle_.get(), model.get()));
  }
  /// Waits for all saves, where Options::restore_best() was not asked for.
  void on_train_end() { detail::check(ckpt_on_train_end(handle_.get(), nullptr)); }
  /// Has one of the signals of Options::save_on_signal() come?
  bool preempted() const noexcept { return ckpt_preempted(handle_.get()); }

  /// Did the last event make a save due that has not been made?
  bool should_save() const noexcept { return ckpt_should_save(handle_.get()); }
  /// Where the save that is due goes, if one is.
  std::optional<std::string> path() const {
    const char* path = ckpt_path(handle_.get());
    return path != nullptr ? std::optional<std::string>(path) : std::nullopt;
  }
  /// Makes the save that is due, or has it made in the background.
  void save(const Model& model) {
    detail::check(ckpt_save(handle_.get(), model.get()));
  }

  void wait_buffers() { detail::check(ckpt_wait_buffers(handle_.get())); }
  void wait() { detail::check(ckpt_wait(handle_.get())); }
  /// Ends the saves that are being made or wait, as soon as can be.
  void cancel() { detail::check(ckpt_cancel(handle_.get())); }

  /// Loads the newest whole checkpoint into a model and goes on from where it was saved; none where there is no
  /// checkpoint, as in a first run.
  std::optional<ResumeInfo> resume(Model& model) {
    ckpt_resume_info info{};
    if (!detail::found(ckpt_resume(handle_.get(), model.get(), &info))) return std::nullopt;
    return ResumeInfo{info.epoch, info.batch,
                      info.has_best ? std::optional<double>(info.best) : std::nullopt, info.path};
  }
  /// Sets bytes of the trainer's own, which every save from now on has.
  void set_state(CString key, std::string_view bytes) {
    detail::check(ckpt_set_state(handle_.get(), key.c_str(), bytes.data(), bytes.size()));
  }
  /// What was set under a key, or is in the checkpoint that was resumed.
  std::optional<std::string> state(CString key) const {
    const void* bytes = nullptr;
    std::size_t n = 0;
    if (!detail::found(ckpt_get_state(handle_.get(), key.c_str(), &bytes, &n))) return std::nullopt;
    return std::string(static_cast<const char*>(bytes), n);
  }

  /// The value to beat, once there is one.
  std::optional<double> best() const {
    double best = 0;
    return detail::found(ckpt_best(handle_.get(), &best)) ? std::optional<double>(best) : std::nullopt;
  }
  /// The file of the best save, once there is one.
  std::optional<std::string> best_path() const {
    const char* path = nullptr;
    return detail::found(ckpt_best_path(handle_.get(), &path)) ? std::optional<std::string>(path) : std::nullopt;
  }
  /// Loads the file of best_path() into a model; Status::NotFound before the first.
  void load_best(Model& model) {
    detail::check(ckpt_load_best(handle_.get(), model.get()));
  }

  /// Finds out before the first epoch what would otherwise fail after it.
  void prepare(const Model& model) { detail::check(ckpt_prepare(handle_.get(), model.get())); }
  /// What the last save took that has been made, once there is one.
  std::optional<Stats> last_stats() const {
    Stats stats{};
    return detail::found(ckpt_last_stats(handle_.get(), &stats)) ? std::optional<Stats>(stats) : std::nullopt;
  }

  /// The handle of C's, still owned by this object.
  ckpt* get() const noexcept { return handle_.get(); }

 private:
  /// Holds the functions for as long as the session can call them.
  struct Close {
    Options::Functions functions;
    void operator()(ckpt* session) const noexcept { ckpt_free(session); }
  };

  void open(const Path& filepath, const ckpt_options* options) {
    ckpt* handle = nullptr;
    detail::check(ckpt_new(filepath.c_str(), options, &handle));
    handle_.reset(handle);
  }

  std::unique_ptr<ckpt, Close> handle_;
};

}  // namespace libckpt

#endif  // CKPT_SESSION_HPP
