/// @file
/// Layers of Keras' whose variables are libtorch's tensors. See ckpt_torch.hpp.

#ifndef CKPT_TORCH_LAYERS_HPP
#define CKPT_TORCH_LAYERS_HPP

#include <cstdint>
#include <cstring>
#include <locale>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include "ckpt.hpp"
#include "ckpt_torch_tensors.hpp"

namespace libckpt::detail {

/// A layer's arguments, as JSON.
class Arguments {
 public:
  template <typename T>
  Arguments& set(const char* name, const T& value) {
    text_ += (text_.empty() ? "\"" : ", \"") + std::string(name) + "\": " + json_of(value);
    return *this;
  }
  std::string json() const { return "{" + text_ + "}"; }

 private:
  static std::string json_of(bool value) { return value ? "true" : "false"; }
  static std::string json_of(const char* value) { return '"' + std::string(value) + '"'; }
  static std::string json_of(const std::string& value) { return json_of(value.c_str()); }
  static std::string json_of(std::int64_t value) { return std::to_string(value); }
  static std::string json_of(double value) {
    std::ostringstream text;
    text.imbue(std::locale::classic());  // whatever the program's locale has for a decimal point
    text.precision(17);
    text << value;
    return text.str();
  }
  static std::string json_of(c10::IntArrayRef values) {
    std::string text;
    for (const auto value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
    return "[" + text + "]";
  }

  std::string text_;
};

/// A Keras model in the making, all of whose layers compute in one type.
class Layers {
 public:
  explicit Layers(at::ScalarType type) : dtype_(name_of(type)) {}

  /// The input: of one sample, -1 where any size will do.
  void add_input(c10::IntArrayRef shape, bool integers) {
    std::string axes;
    for (const auto axis : shape) axes += (axes.empty() ? "" : ", ") + (axis == -1 ? "null" : std::to_string(axis));
    keras_.add("InputLayer", R"({"shape": [)" + axes + R"(], "dtype": ")" + (integers ? "int32" : dtype_) + R"("})");
  }

  /// Adds a layer behind the last one; its number.
  std::size_t add(const char* class_name, Arguments arguments = Arguments()) {
    return keras_.add(class_name, arguments.set("trainable", trains_).set("dtype", dtype_).json());
  }

  /// Whether Keras is to train the layers that come.
  void set_trains(bool trains) { trains_ = trains; }

  /// Binds a view of a tensor with the axes of a variable.
  void bind(std::size_t layer, const char* name, const at::Tensor& view) {
    check_is_dense(view, name);
    const auto shape = keras_.variable(layer, name).shape;
    if (view.sizes() != c10::IntArrayRef(shape)) {
      throw Error(Status::InvalidArgument, "does not fit what comes before it: its " + std::string(name) + " is " +
                                               c10::str(view.sizes()) + " in Keras' order, not " +
                                               c10::str(c10::IntArrayRef(shape)));
    }
    if (is_in_host_memory(view)) {
      keras_.bind(layer, name, dtype_of(view, name), view.data_ptr(), shape_of(view.strides()));
      keep_memory(keras_, view);
    } else {
      keras_.bind_source(layer, name, dtype_of(view, name), fetch_of(view), put_of(view));
    }
  }

  /// Binds a variable that is made of tensors, anew at each save: `join` makes it, `split` gives it back to them.
  template <typename Join, typename Split>
  void bind_made(std::size_t layer, const char* name, at::ScalarType type, Join join, Split split) {
    const auto variable = keras_.variable(layer, name);
    const auto loaded = std::make_shared<at::Tensor>();
    const auto put = [=](const void* src, std::uint64_t offset, std::uint64_t nbytes) {
      in_torch([&] {
        if (offset == 0) *loaded = at::empty(variable.shape, type);
        std::memcpy(static_cast<char*>(loaded->data_ptr()) + offset, src, nbytes);
        if (offset + nbytes == loaded->nbytes()) split(std::exchange(*loaded, at::Tensor()));
      });
    };
    keras_.bind_source(layer, name, dtype_of(at::empty({0}, type), name), fetch_made(join), put);
  }

  Model model() const { return keras_.model(); }

 private:
  static const char* name_of(at::ScalarType type) {
    switch (type) {
      case at::kDouble:
        return "float64";
      case at::kHalf:
        return "float16";
      case at::kBFloat16:
        return "bfloat16";
      default:
        return "float32";
    }
  }

  Keras keras_;
  std::string dtype_;
  bool trains_ = true;
};

}  // namespace libckpt::detail

#endif  // CKPT_TORCH_LAYERS_HPP
