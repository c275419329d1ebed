// The small types of the binding: views, strings, shapes, logs, dtypes, errors.
#include "check.hpp"
#include <ckpt.hpp>  // twice

#include <map>

using libckpt::Dtype;
using libckpt::DtypeOf;

namespace my {
struct half {
  std::uint16_t bits;
};
}  // namespace my
template <>
struct libckpt::DtypeOf<my::half> {
  static constexpr auto value = libckpt::Dtype::F16;
};

static_assert(DtypeOf<float>::value == Dtype::F32 && DtypeOf<double>::value == Dtype::F64);
static_assert(DtypeOf<std::int8_t>::value == Dtype::I8 && DtypeOf<std::uint8_t>::value == Dtype::U8);
static_assert(DtypeOf<std::int16_t>::value == Dtype::I16 && DtypeOf<std::uint16_t>::value == Dtype::U16);
static_assert(DtypeOf<std::int32_t>::value == Dtype::I32 && DtypeOf<std::uint32_t>::value == Dtype::U32);
static_assert(DtypeOf<std::int64_t>::value == Dtype::I64 && DtypeOf<std::uint64_t>::value == Dtype::U64);
static_assert(DtypeOf<long long>::value == Dtype::I64 && DtypeOf<unsigned long long>::value == Dtype::U64);
static_assert(DtypeOf<bool>::value == Dtype::Bool && DtypeOf<my::half>::value == Dtype::F16);

template <typename T, typename = void>
constexpr bool has_dtype = false;
template <typename T>
constexpr bool has_dtype<T, std::void_t<decltype(DtypeOf<T>::value)>> = true;
static_assert(!has_dtype<char> && !has_dtype<wchar_t> && !has_dtype<long double> && !has_dtype<const float> &&
              !has_dtype<void> && !has_dtype<std::string>);

template <typename From, typename To>
constexpr bool converts = std::is_convertible_v<From, To>;
using Floats = libckpt::Span<float>;
using ConstFloats = libckpt::Span<const float>;
static_assert(converts<std::vector<float>&, Floats> && converts<float (&)[3], Floats>);
static_assert(converts<std::array<float, 3>&, Floats> && converts<Floats, ConstFloats>);
static_assert(converts<const std::vector<float>&, ConstFloats> && converts<std::vector<float>, ConstFloats>);
static_assert(!converts<std::vector<float>, Floats>, "a view that outlives what it views");
static_assert(!converts<const std::vector<float>&, Floats> && !converts<ConstFloats, Floats>);
static_assert(!converts<std::vector<double>&, Floats> && !converts<std::vector<bool>&, libckpt::Span<bool>>);

using libckpt::Logs;
static_assert(converts<std::map<std::string, double>&, const Logs&>);
static_assert(converts<std::vector<std::pair<const char*, float>>&, const Logs&>);
static_assert(converts<std::vector<libckpt::Metric>&, const Logs&>);
static_assert(!converts<std::map<int, double>&, const Logs&> && !converts<std::vector<double>&, const Logs&>);
static_assert(!std::is_copy_constructible_v<Logs> && !std::is_move_constructible_v<Logs>);

static void spans() {
  std::vector<float> v = {1, 2, 3};
  const Floats view = v;
  CHECK(view.data() == v.data() && view.size() == 3 && !view.empty());
  view[1] = 5;
  float sum = 0;
  for (const float x : ConstFloats(view)) sum += x;
  CHECK(sum == 9);
  CHECK(Floats().empty() && Floats().begin() == Floats().end());
}

static void strings() {
  const std::string text = "a/b";
  CHECK(libckpt::CString(text).c_str() == text.c_str());  // borrowed
  throws([] { libckpt::CString(std::string("a\0b", 3)); }, libckpt::Status::InvalidArgument, "'a...' has a NUL");
  const std::filesystem::path path = std::filesystem::path("a") / "b.keras";
  CHECK(libckpt::Path(path).c_str() == path.native().c_str());
  CHECK(std::strcmp(libckpt::Path("{epoch}.keras").c_str(), "{epoch}.keras") == 0);
}

static std::string text_of(const Logs& logs) {
  std::string text;
  for (std::size_t i = 0; i < logs.size(); ++i) {
    text += std::string(logs.data()[i].name) + "=" + std::to_string(logs.data()[i].value) + ";";
  }
  return text;
}

static void logs() {
  CHECK(text_of({}).empty());
  CHECK(text_of({{"loss", 0.5}}) == "loss=0.500000;");
  const std::string name = "acc";
  const char* const expected = "acc=0.250000;loss=0.500000;";
  CHECK(text_of({{name, 0.25f}, {"loss", 0.5}}) == expected);
  const std::vector<libckpt::Metric> metrics = {{"acc", 0.25}, {"loss", 0.5}};
  CHECK(text_of(metrics) == expected);
  CHECK(Logs(metrics).data() == metrics.data());  // not copied
  CHECK(text_of(std::map<std::string, double>{{"loss", 0.5}, {"acc", 0.25}}) == expected);
  CHECK(text_of(std::vector<std::pair<const char*, float>>{{"acc", 0.25f}, {"loss", 0.5f}}) == expected);
  throws([] { text_of({{std::string("a\0b", 3), 1.0}}); }, libckpt::Status::InvalidArgument, "NUL");
}

static void shapes() {
  const std::size_t n = 4;
  const libckpt::Shape shape = {n, 3, std::int64_t{-1}};
  CHECK(shape.size() == 3 && shape.data()[0] == 4 && shape.data()[1] == 3 && shape.data()[2] == -1);
  CHECK(libckpt::Shape().size() == 0 && libckpt::Shape().holds(1) && !libckpt::Shape().holds(2));
  const std::vector<std::int64_t> axes = {2, 5};
  CHECK(libckpt::Shape(axes).holds(10) && !libckpt::Shape(axes).holds(9) && !libckpt::Shape(axes).holds(20));
  CHECK(libckpt::Shape(axes).size() == 2 && libckpt::Shape({7}).data()[0] == 7);
  CHECK(libckpt::Shape({3, 0}).holds(0) && !libckpt::Shape({3, 0}).holds(3));
  CHECK(!libckpt::Shape({INT64_MAX, INT64_MAX, 16}).holds(16));
  throws([] { libckpt::Shape(std::vector<std::int64_t>(33)); }, libckpt::Status::InvalidArgument, "32 axes, not 33");
}

static void errors() {
  static_assert(std::is_base_of_v<std::runtime_error, libckpt::Error>);
  CHECK(std::strcmp(libckpt::status_name(libckpt::Status::NoSpace), "CKPT_E_NO_SPACE") == 0);
  CHECK(libckpt::version() == CKPT_VERSION);
  bool thrown = false;
  try {
    libckpt::Model().save("/dev/null/x.weights.h5");
  } catch (const libckpt::Error& error) {
    thrown = true;
    CHECK(error.status() == libckpt::Status::Io && error.os_error() != 0);
    CHECK(std::strncmp(error.what(), "ckpt_model_save: ", 17) == 0);
  }
  CHECK(thrown);
}

int main() {
  spans();
  strings();
  logs();
  shapes();
  errors();
  return 0;
}
