/// @file
/// The small types of ckpt.hpp: statuses and errors, dtypes, flags, views, strings, logs, shapes.

#ifndef CKPT_TYPES_HPP
#define CKPT_TYPES_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "ckpt.h"

namespace libckpt {

/// What a call came to: ckpt_status.
enum class Status {
  Ok = CKPT_OK, InvalidArgument = CKPT_E_INVALID_ARGUMENT, Template = CKPT_E_TEMPLATE, Io = CKPT_E_IO,
  NoSpace = CKPT_E_NO_SPACE, Format = CKPT_E_FORMAT, NotFound = CKPT_E_NOT_FOUND, Mismatch = CKPT_E_MISMATCH,
  State = CKPT_E_STATE, Unsupported = CKPT_E_UNSUPPORTED, Cancelled = CKPT_E_CANCELLED, Internal = CKPT_E_INTERNAL
};

/// The type of an element: ckpt_dtype.
enum class Dtype {
  F32 = CKPT_DTYPE_F32, F64 = CKPT_DTYPE_F64, F16 = CKPT_DTYPE_F16, BF16 = CKPT_DTYPE_BF16, I8 = CKPT_DTYPE_I8,
  U8 = CKPT_DTYPE_U8, I16 = CKPT_DTYPE_I16, U16 = CKPT_DTYPE_U16, I32 = CKPT_DTYPE_I32, U32 = CKPT_DTYPE_U32,
  I64 = CKPT_DTYPE_I64, U64 = CKPT_DTYPE_U64, Bool = CKPT_DTYPE_BOOL
};

/// What counts as better: ckpt_mode.
enum class Mode { Auto = CKPT_MODE_AUTO, Min = CKPT_MODE_MIN, Max = CKPT_MODE_MAX };

/// How a save runs beside the training: ckpt_async.
enum class Async {
  Off = CKPT_ASYNC_OFF, Copy = CKPT_ASYNC_COPY, Borrow = CKPT_ASYNC_BORROW, Snapshot = CKPT_ASYNC_SNAPSHOT
};

/// What a finished save survives: ckpt_durability.
enum class Durability { Full = CKPT_DURABILITY_FULL, None = CKPT_DURABILITY_NONE };

/// What becomes of a save in the background for which there is no room: ckpt_backpressure.
enum class Backpressure { Block = CKPT_BACKPRESSURE_BLOCK, Replace = CKPT_BACKPRESSURE_REPLACE };

/// What becomes of a save where the monitored value is NaN: ckpt_on_nan.
enum class OnNan { Skip = CKPT_ON_NAN_SKIP, Aside = CKPT_ON_NAN_ASIDE, Keras = CKPT_ON_NAN_KERAS };

/// How bytes reach the disk: ckpt_backend.
enum class Backend { Auto = CKPT_BACKEND_AUTO, Buffered = CKPT_BACKEND_BUFFERED, Direct = CKPT_BACKEND_DIRECT };

/// What becomes of a session whose file path another process uses: ckpt_lock.
enum class Lock { Fail = CKPT_LOCK_FAIL, Wait = CKPT_LOCK_WAIT, Off = CKPT_LOCK_OFF };

/// How much a log line matters: ckpt_log_level.
enum class LogLevel { Error = CKPT_LOG_ERROR, Warn = CKPT_LOG_WARN, Info = CKPT_LOG_INFO, Debug = CKPT_LOG_DEBUG };

/// How a checkpoint is opened: ckpt_open_flags, to be combined with |.
enum class Open : std::uint32_t { Default = CKPT_OPEN_DEFAULT, NoHdf5Library = CKPT_OPEN_NO_HDF5_LIBRARY };

/// How a model is loaded: ckpt_load_flags, to be combined with |.
enum class Load : std::uint32_t {
  Exact = CKPT_LOAD_EXACT, ConvertFloats = CKPT_LOAD_CONVERT_FLOATS, Partial = CKPT_LOAD_PARTIAL,
  SkipMismatch = CKPT_LOAD_SKIP_MISMATCH, Unverified = CKPT_LOAD_UNVERIFIED
};

constexpr Open operator|(Open a, Open b) noexcept {
  return static_cast<Open>(static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b));
}
constexpr Load operator|(Load a, Load b) noexcept {
  return static_cast<Load>(static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b));
}

/// A part of a model that is called otherwise in a file: {file_prefix, model_prefix}.
using Rename = ckpt_rename;

/// What a save took.
using Stats = ckpt_stats;

/// The name of a status, as in "CKPT_E_IO".
inline const char* status_name(Status status) noexcept { return ckpt_status_name(static_cast<ckpt_status>(status)); }

/// The version of the library that is running: major << 16 | minor << 8 | patch.
inline std::uint32_t version() noexcept { return ckpt_version(); }

/// A failure: its kind, and what() failed, on what, and what to do.
class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message, int os_error = 0)
      : std::runtime_error(message), status_(status), os_error_(os_error) {}

  /// The kind of failure.
  Status status() const noexcept { return status_; }
  /// The errno behind Status::Io and Status::NoSpace, else 0.
  int os_error() const noexcept { return os_error_; }

 private:
  Status status_;
  int os_error_;
};

namespace detail {

/// Throws the calling thread's last failure, if `status` is one.
inline void check(ckpt_status status) {
  if (status != CKPT_OK) throw Error(static_cast<Status>(status), ckpt_last_error(), ckpt_last_os_error());
}

/// The same for what may not be there: false where it is not.
inline bool found(ckpt_status status) {
  if (status == CKPT_E_NOT_FOUND) return false;
  check(status);
  return true;
}

/// Calls a function of the caller's for C: what it throws becomes a status, and its text a part of the failure's message.
template <typename Function>
ckpt_status called_by_c(Function&& function) noexcept {
  try {
    function();
    return CKPT_OK;
  } catch (const Error& error) {
    ckpt_set_last_error(error.what());
    return static_cast<ckpt_status>(error.status());
  } catch (const std::exception& error) {
    ckpt_set_last_error(error.what());
  } catch (...) {
    ckpt_set_last_error("an exception of an unknown type");
  }
  return CKPT_E_IO;
}

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* handle) const noexcept { Free(handle); }
};

/// Owns a handle of C's.
template <typename T, auto Free>
using Handle = std::unique_ptr<T, Deleter<Free>>;

template <typename T>
inline constexpr bool is_integer =
    std::is_integral_v<T> && !std::is_same_v<T, bool> && !std::is_same_v<T, char> && !std::is_same_v<T, wchar_t> &&
    !std::is_same_v<T, char16_t> && !std::is_same_v<T, char32_t>;

template <typename T>
constexpr Dtype integer_dtype() noexcept {
  switch (sizeof(T)) {
    case 1: return std::is_signed_v<T> ? Dtype::I8 : Dtype::U8;
    case 2: return std::is_signed_v<T> ? Dtype::I16 : Dtype::U16;
    case 4: return std::is_signed_v<T> ? Dtype::I32 : Dtype::U32;
    default: return std::is_signed_v<T> ? Dtype::I64 : Dtype::U64;
  }
}

}  // namespace detail

/// The dtype of a C++ type, as DtypeOf<T>::value: float, double, bool and the integers. C++17 has no half types: name
/// yours by a specialization, or hand Dtype::F16 or Dtype::BF16 to Model::add.
///
///     template <> struct libckpt::DtypeOf<my::half> { static constexpr auto value = libckpt::Dtype::F16; };
template <typename T, typename = void>
struct DtypeOf {};

template <>
struct DtypeOf<float> { static constexpr Dtype value = Dtype::F32; };

template <>
struct DtypeOf<double> { static constexpr Dtype value = Dtype::F64; };

template <>
struct DtypeOf<bool> { static constexpr Dtype value = Dtype::Bool; };

template <typename T>
struct DtypeOf<T, std::enable_if_t<detail::is_integer<T>>> {
  static constexpr Dtype value = detail::integer_dtype<T>();
};

/// A view of elements that somebody else owns: std::span, which C++17 lacks. Made from what is contiguous: an array, a
/// std::vector, a std::array, a std::span; of a temporary one only to read.
template <typename T>
class Span {
  template <typename C>
  using ElementOf = std::remove_pointer_t<decltype(std::declval<C&>().data())>;

 public:
  using value_type = std::remove_cv_t<T>;

  constexpr Span() noexcept = default;
  constexpr Span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <std::size_t N>
  constexpr Span(T (&array)[N]) noexcept : data_(array), size_(N) {}
  template <typename C, typename = std::enable_if_t<(std::is_lvalue_reference_v<C> || std::is_const_v<T>) &&
                                                    std::is_convertible_v<ElementOf<C> (*)[], T (*)[]>>>
  constexpr Span(C&& container) noexcept : data_(container.data()), size_(container.size()) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T& operator[](std::size_t i) const noexcept { return data_[i]; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A string on its way to C: UTF-8, NUL-terminated, borrowed for the length of a call.
class CString {
 public:
  CString(const char* text) noexcept : text_(text) {}
  /// Status::InvalidArgument where the text has a NUL: C would see what is before it.
  CString(const std::string& text) : text_(text.c_str()) {
    if (const auto nul = text.find('\0'); nul != std::string::npos) {
      throw Error(Status::InvalidArgument, "the string '" + text.substr(0, nul) + "...' has a NUL");
    }
  }

  const char* c_str() const noexcept { return text_; }
  /// For messages.
  std::string str() const { return text_ != nullptr ? text_ : ""; }

 private:
  const char* text_;
};

/// A path of the file system on its way to C.
class Path : public CString {
 public:
  using CString::CString;
  Path(const std::filesystem::path& path) : CString(path.native()) {}
};

/// A metric of the logs. Its name is borrowed.
struct Metric : ckpt_metric {
  Metric(CString metric, double number) noexcept : ckpt_metric{metric.c_str(), number} {}
};
static_assert(sizeof(Metric) == sizeof(ckpt_metric), "C reads arrays of them");

/// The logs of an event, for the length of the call: a list such as {{"loss", 0.5}, {"acc", 0.9}} or a container of
/// Metric, as they are; or a range of pairs of a string and a number, as a std::map is, copied into one array.
class Logs {
  template <typename R>
  using MetricsIn = std::enable_if_t<std::is_convertible_v<const R&, Span<const Metric>>>;
  template <typename R, typename P = decltype(*std::begin(std::declval<const R&>()))>
  using PairsIn = std::enable_if_t<std::is_reference_v<P> &&  // the names of temporary pairs would be gone
                                   std::is_convertible_v<decltype((std::declval<P>().first)), CString> &&
                                   std::is_convertible_v<decltype((std::declval<P>().second)), double>>;

 public:
  Logs() noexcept = default;
  Logs(std::initializer_list<Metric> metrics) noexcept : view_(metrics.begin(), metrics.size()) {}
  template <typename R, MetricsIn<R>* = nullptr>
  Logs(const R& metrics) noexcept : view_(metrics) {}
  template <typename R, PairsIn<R>* = nullptr>
  Logs(const R& pairs) {
    copies_.reserve(static_cast<std::size_t>(std::distance(std::begin(pairs), std::end(pairs))));
    for (const auto& pair : pairs) copies_.emplace_back(pair.first, static_cast<double>(pair.second));
    view_ = copies_;
  }
  Logs(const Logs&) = delete;
  Logs& operator=(const Logs&) = delete;

  const ckpt_metric* data() const noexcept { return view_.data(); }
  std::size_t size() const noexcept { return view_.size(); }

 private:
  Span<const Metric> view_;
  std::vector<Metric> copies_;
};

/// A number for each axis, sizes or strides: {64, 32} of any integers, a container of std::int64_t; {} of a scalar.
class Shape {
 public:
  Shape() noexcept = default;
  template <typename... Ints, typename = std::enable_if_t<(detail::is_integer<Ints> && ...)>>
  Shape(Ints... axes) noexcept : axes_{static_cast<std::int64_t>(axes)...}, rank_(sizeof...(axes)) {
    static_assert(sizeof...(axes) <= max_rank, "a tensor has at most 32 axes");
  }
  template <typename C, std::enable_if_t<std::is_convertible_v<const C&, Span<const std::int64_t>>>* = nullptr>
  Shape(const C& axes) : rank_(axes.size()) {
    if (rank_ > max_rank) {
      throw Error(Status::InvalidArgument, "a tensor has at most 32 axes, not " + std::to_string(rank_));
    }
    std::copy_n(axes.data(), rank_, axes_.begin());
  }

  const std::int64_t* data() const noexcept { return axes_.data(); }
  std::size_t size() const noexcept { return rank_; }

  /// Is `count` the number of elements of a tensor of this shape?
  bool holds(std::size_t count) const noexcept {
    const auto end = axes_.begin() + static_cast<std::ptrdiff_t>(rank_);
    if (std::find(axes_.begin(), end, 0) != end) return count == 0;
    for (auto axis = axes_.begin(); axis != end; ++axis) {
      const auto size = static_cast<std::uint64_t>(*axis);
      if (count % size != 0) return false;
      count /= size;
    }
    return count == 1;
  }

 private:
  static constexpr std::size_t max_rank = 32;
  std::array<std::int64_t, max_rank> axes_{};
  std::size_t rank_ = 0;
};

/// Fills dst with nbytes of a tensor, from byte `offset` of it on: see ckpt_fetch_fn. What it throws ends the save.
using FetchFunction = std::function<void(void* dst, std::uint64_t offset, std::uint64_t nbytes)>;

/// Takes nbytes of a tensor, from byte `offset` of it on: see ckpt_put_fn. What it throws ends the load.
using PutFunction = std::function<void(const void* src, std::uint64_t offset, std::uint64_t nbytes)>;

/// Receives log lines. What it throws is dropped: nothing may be thrown through C.
using LogFunction = std::function<void(LogLevel level, const char* message)>;

/// Hears how far a save has come. What it throws is dropped, likewise.
using ProgressFunction = std::function<void(const char* path, std::uint64_t done, std::uint64_t total)>;

}  // namespace libckpt

#endif  // CKPT_TYPES_HPP
