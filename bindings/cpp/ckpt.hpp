/// @file
/// libckpt for C++17: model checkpoints, what Keras' ModelCheckpoint is to Python.
///
///     libckpt::Session session("checkpoints/{epoch:02d}-{val_loss:.3f}.keras",
///                              libckpt::Options().monitor("val_loss").save_best_only().verbose());
///     libckpt::Model model;
///     model.add("layers/dense/vars/0", kernel, {64, 32}).set_config(config_json);
///     ...
///     session.on_epoch_end(epoch, {{"loss", loss}, {"val_loss", val_loss}});
///     if (session.should_save())
///       session.save(model);
///
/// One class a noun of ckpt.h, under its name (in a namespace of another name: `ckpt` is C's session). What ckpt.h says
/// of a function holds for the member of that name: lifetimes, threads, and when it fails. What differs:
///
/// - A failure is an exception, libckpt::Error. What may not be there (the best so far, a tensor) is a std::optional.
/// - Handles are freed by their owners, which can be moved, not copied. One that was moved from can be assigned to
///   and destroyed; its other members fail as C does of NULL.
/// - Little is allocated beside what C allocates: what is returned as a string or a vector, the copy of a log
///   function, and logs that come as pairs.
///
/// Strings are UTF-8; a std::filesystem::path is taken wherever a path of the file system is.

#ifndef CKPT_HPP
#define CKPT_HPP

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ckpt.h"
#include "ckpt_types.hpp"

namespace libckpt {

namespace detail {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* handle) const noexcept { Free(handle); }
};

/// Owns a handle of C's.
template <typename T, auto Free>
using Handle = std::unique_ptr<T, Deleter<Free>>;

}  // namespace detail

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
  /// Save every n batches; 0: at the end of each epoch.
  Options& save_freq(std::uint64_t batches) & { return set(ckpt_options_set_save_freq, batches); }
  Options&& save_freq(std::uint64_t batches) && { return std::move(save_freq(batches)); }
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
  /// What a finished save survives.
  Options& durability(Durability kind) & {
    return set(ckpt_options_set_durability, static_cast<ckpt_durability>(kind));
  }
  Options&& durability(Durability kind) && { return std::move(durability(kind)); }
  /// How many threads a save or a load may use; 0: as many as help.
  Options& threads(std::uint32_t n) & { return set(ckpt_options_set_threads, n); }
  Options&& threads(std::uint32_t n) && { return std::move(threads(n)); }
  /// Keep the last n saves; 0: this rule is off.
  Options& keep_last(std::uint64_t n) & { return set(ckpt_options_set_keep_last, n); }
  Options&& keep_last(std::uint64_t n) && { return std::move(keep_last(n)); }
  /// Keep the k best saves; 0: this rule is off.
  Options& keep_best(std::uint64_t k) & { return set(ckpt_options_set_keep_best, k); }
  Options&& keep_best(std::uint64_t k) && { return std::move(keep_best(k)); }
  /// Keep the saves of every n-th epoch; 0: this rule is off.
  Options& keep_every(std::uint64_t epochs) & { return set(ckpt_options_set_keep_every, epochs); }
  Options&& keep_every(std::uint64_t epochs) && { return std::move(keep_every(epochs)); }
  /// Who receives the log lines; it lives as long as these options and every session made from them. An empty function
  /// takes it away.
  Options& log(LogFunction function) & {
    auto log = function ? std::make_shared<const LogFunction>(std::move(function)) : nullptr;
    set(ckpt_options_set_log, log ? &forward : nullptr, const_cast<LogFunction*>(log.get()));
    log_ = std::move(log);
    return *this;
  }
  Options&& log(LogFunction function) && { return std::move(log(std::move(function))); }

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

  detail::Handle<ckpt_options, ckpt_options_free> handle_;
  std::shared_ptr<const LogFunction> log_;
};

/// The tensors of a model by their paths in the checkpoint. The buffers are borrowed: they have to live until the model
/// is destroyed or set_data() replaces them.
class Model {
 public:
  Model() {
    ckpt_model* handle = nullptr;
    detail::check(ckpt_model_new(&handle));
    handle_.reset(handle);
  }

  /// Adds a tensor of a dtype that is named.
  Model& add(CString path, Dtype dtype, void* data, const Shape& shape) {
    return add(path, dtype, shape, nullptr, data);
  }
  /// Adds a tensor with gaps or in another order: strides in elements, one for each axis.
  Model& add(CString path, Dtype dtype, void* data, const Shape& shape, const Shape& strides) {
    if (strides.size() != shape.size()) {
      throw Error(Status::InvalidArgument, "tensor '" + path.str() + "' has " + std::to_string(shape.size()) +
                                               " axes, but " + std::to_string(strides.size()) + " strides");
    }
    return add(path, dtype, shape, strides.data(), data);
  }

  /// Adds a tensor of T's dtype: row-major, or with strides.
  template <typename T>
  Model& add(CString path, T* data, const Shape& shape) {
    return add(path, DtypeOf<T>::value, data, shape);
  }
  template <typename T>
  Model& add(CString path, T* data, const Shape& shape, const Shape& strides) {
    return add(path, DtypeOf<T>::value, data, shape, strides);
  }

  /// Adds a tensor, row-major in a container or a Span, whose size has to be the shape's.
  template <typename C, typename T = std::remove_pointer_t<decltype(std::declval<C&>().data())>>
  Model& add(CString path, C&& buffer, const Shape& shape) {
    const Span<T> view(std::forward<C>(buffer));
    if (!shape.holds(view.size())) {
      throw Error(Status::Mismatch, "the buffer of tensor '" + path.str() + "' has " + std::to_string(view.size()) +
                                        " elements, which is not what its shape says");
    }
    return add(path, view.data(), shape);
  }

  /// Sets Keras' "name" attribute of a group's variables.
  Model& set_name(CString group, CString name) {
    detail::check(ckpt_model_set_name(handle_.get(), group.c_str(), name.c_str()));
    return *this;
  }
  /// Says that a tensor's buffer has moved.
  Model& set_data(CString path, void* data) {
    detail::check(ckpt_model_set_data(handle_.get(), path.c_str(), data));
    return *this;
  }
  /// Sets the config.json of a .keras file.
  Model& set_config(CString config_json) {
    detail::check(ckpt_model_set_config(handle_.get(), config_json.c_str()));
    return *this;
  }
  /// Sets one of the assets of a .keras file: `bytes` is a container of bytes or characters, copied.
  template <typename C, typename T = std::remove_pointer_t<decltype(std::declval<const C&>().data())>>
  Model& set_asset(CString name, const C& bytes) {
    static_assert(sizeof(T) == 1, "an asset is made of bytes");
    detail::check(ckpt_model_set_asset(handle_.get(), name.c_str(), bytes.data(), bytes.size()));
    return *this;
  }

  /// Saves one file, with no policy, as a whole or not at all.
  void save(const Path& path) const { detail::check(ckpt_model_save(handle_.get(), path.c_str())); }

  /// The handle of C's, still owned by this object.
  ckpt_model* get() const noexcept { return handle_.get(); }

 private:
  Model& add(CString path, Dtype dtype, const Shape& shape, const std::int64_t* strides, void* data) {
    detail::check(ckpt_model_add(handle_.get(), path.c_str(), static_cast<ckpt_dtype>(dtype), shape.size(),
                                 shape.data(), strides, data));
    return *this;
  }

  detail::Handle<ckpt_model, ckpt_model_free> handle_;
};

/// What a tensor in a checkpoint is. Valid while its reader lives.
struct TensorInfo {
  /// Its number: below Reader::size().
  std::size_t index;
  /// Components joined by '/', as in "layers/dense/vars/0".
  std::string_view path;
  Dtype dtype;
  /// Sizes along the axes.
  Span<const std::int64_t> shape;
  /// Bytes of all elements.
  std::uint64_t nbytes;
};

/// An open checkpoint, and the range of its tensors: for (const libckpt::TensorInfo& tensor : reader).
class Reader {
 public:
  explicit Reader(const Path& path) {
    ckpt_reader* handle = nullptr;
    detail::check(ckpt_reader_open(path.c_str(), &handle));
    handle_.reset(handle);
  }

  /// How many tensors there are.
  std::size_t size() const noexcept { return ckpt_reader_len(handle_.get()); }

  /// The tensor with this path, if there is one.
  std::optional<TensorInfo> find(CString path) const {
    std::size_t index = 0;
    if (!detail::found(ckpt_reader_find(handle_.get(), path.c_str(), &index))) return std::nullopt;
    return tensor(index);
  }
  /// The tensor with this number.
  TensorInfo tensor(std::size_t index) const {
    ckpt_tensor_info info;
    detail::check(ckpt_reader_tensor(handle_.get(), index, &info));
    return {index, info.path, static_cast<Dtype>(info.dtype), {info.shape, info.rank}, info.nbytes};
  }

  /// Reads a tensor, row-major, into `nbytes` of the caller's memory: exactly the tensor's.
  void read(std::size_t index, void* data, std::size_t nbytes) const {
    detail::check(ckpt_reader_read(handle_.get(), index, data, nbytes));
  }
  /// Reads a tensor into new memory; Status::Mismatch where T is not its type, Status::NotFound where it is not there.
  template <typename T>
  std::vector<T> read(CString path) const {
    static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no bools to read into: use the other read()");
    std::size_t index = 0;
    detail::check(ckpt_reader_find(handle_.get(), path.c_str(), &index));
    const TensorInfo info = tensor(index);
    if (info.dtype != DtypeOf<T>::value) {
      throw Error(Status::Mismatch, "tensor '" + std::string(info.path) + "' is of another type than was asked for");
    }
    std::vector<T> values(static_cast<std::size_t>(info.nbytes / sizeof(T)));
    read(index, values.data(), values.size() * sizeof(T));
    return values;
  }

  /// Fills every tensor of a model.
  void load(Model& model) const { detail::check(ckpt_reader_load(handle_.get(), model.get())); }
  /// Compares all tensors with their checksums.
  void verify() const { detail::check(ckpt_reader_verify(handle_.get())); }

  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = TensorInfo;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = TensorInfo;

    iterator(const Reader& reader, std::size_t index) noexcept : reader_(&reader), index_(index) {}
    TensorInfo operator*() const { return reader_->tensor(index_); }
    iterator& operator++() noexcept { return ++index_, *this; }
    iterator operator++(int) noexcept { return {*reader_, index_++}; }
    bool operator==(const iterator& other) const noexcept { return index_ == other.index_; }
    bool operator!=(const iterator& other) const noexcept { return index_ != other.index_; }

   private:
    const Reader* reader_;
    std::size_t index_;
  };

  iterator begin() const noexcept { return {*this, 0}; }
  iterator end() const noexcept { return {*this, size()}; }

  /// The handle of C's, still owned by this object.
  ckpt_reader* get() const noexcept { return handle_.get(); }

 private:
  detail::Handle<ckpt_reader, ckpt_reader_free> handle_;
};

/// A checkpointing session: when to save, where, what is best and what to keep.
class Session {
 public:
  /// @param filepath  a Python format string, such as "checkpoints/{epoch:02d}-{val_loss:.3f}.keras"
  explicit Session(const Path& filepath) { open(filepath, nullptr); }
  Session(const Path& filepath, const Options& options) : handle_(nullptr, Close{options.log_}) {
    open(filepath, options.get());
  }

  void on_epoch_begin(std::uint64_t epoch) { detail::check(ckpt_on_epoch_begin(handle_.get(), epoch)); }
  void on_train_batch_end(std::uint64_t batch, const Logs& logs) {
    detail::check(ckpt_on_train_batch_end(handle_.get(), batch, logs.data(), logs.size()));
  }
  void on_epoch_end(std::uint64_t epoch, const Logs& logs) {
    detail::check(ckpt_on_epoch_end(handle_.get(), epoch, logs.data(), logs.size()));
  }

  /// Did the last event make a save due that has not been made?
  bool should_save() const noexcept { return ckpt_should_save(handle_.get()); }
  /// Where the save that is due goes, if one is.
  std::optional<std::string> path() const {
    const char* path = ckpt_path(handle_.get());
    return path != nullptr ? std::optional<std::string>(path) : std::nullopt;
  }
  /// Makes the save that is due.
  void save(const Model& model) { detail::check(ckpt_save(handle_.get(), model.get())); }

  void wait_buffers() { detail::check(ckpt_wait_buffers(handle_.get())); }
  void wait() { detail::check(ckpt_wait(handle_.get())); }

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
  void load_best(Model& model) { detail::check(ckpt_load_best(handle_.get(), model.get())); }

  /// Finds out before the first epoch what would otherwise fail after it.
  void prepare(const Model& model) { detail::check(ckpt_prepare(handle_.get(), model.get())); }
  /// What the last finished save took, once there is one.
  std::optional<Stats> last_stats() const {
    Stats stats{};
    return detail::found(ckpt_last_stats(handle_.get(), &stats)) ? std::optional<Stats>(stats) : std::nullopt;
  }

  /// The handle of C's, still owned by this object.
  ckpt* get() const noexcept { return handle_.get(); }

 private:
  /// Holds the log function for as long as the session can call it.
  struct Close {
    std::shared_ptr<const LogFunction> log;
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

#endif  // CKPT_HPP
