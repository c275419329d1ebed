/// @file
/// A Keras model by its layers, for programs that have no Python. See ckpt.hpp.

#ifndef CKPT_KERAS_HPP
#define CKPT_KERAS_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ckpt.h"
#include "ckpt_model.hpp"
#include "ckpt_types.hpp"

namespace libckpt {

/// What a variable of a layer is.
struct Variable {
  std::string path;
  Dtype dtype;
  std::vector<std::int64_t> shape;
};

/// A Sequential model in the making: its layers, the optimizer, and where their variables are. The buffers are borrowed,
/// by it and by the models that it makes.
///
///     libckpt::Keras keras;
///     keras.add("InputLayer", R"({"shape": [64]})");
///     const auto dense = keras.add("Dense", R"({"units": 10, "activation": "softmax"})");
///     keras.bind(dense, "kernel", kernel).bind(dense, "bias", bias);
///     keras.model().save("model.keras");
class Keras {
 public:
  Keras() {
    ckpt_keras* handle = nullptr;
    detail::check(ckpt_keras_new(&handle));
    handle_.reset(handle);
  }

  /// Adds a layer behind the last one; its number.
  std::size_t add(CString class_name, CString config_json = "{}") {
    std::size_t layer = 0;
    detail::check(ckpt_keras_add(handle_.get(), class_name.c_str(), config_json.c_str(), &layer));
    return layer;
  }

  /// What a variable of a layer is.
  Variable variable(std::size_t layer, CString name) const {
    ckpt_tensor_info info{};
    detail::check(ckpt_keras_variable(handle_.get(), layer, name.c_str(), &info));
    return {info.path, static_cast<Dtype>(info.dtype), {info.shape, info.shape + info.rank}};
  }

  /// Says where a variable of a layer is, of a dtype that is named: row-major, or with strides in elements.
  Keras& bind(std::size_t layer, CString name, Dtype dtype, void* data) {
    detail::check(ckpt_keras_bind(handle_.get(), layer, name.c_str(), static_cast<ckpt_dtype>(dtype), nullptr, data));
    return *this;
  }
  Keras& bind(std::size_t layer, CString name, Dtype dtype, void* data, const Shape& strides) {
    check_axes(layer, name, strides);
    detail::check(ckpt_keras_bind(handle_.get(), layer, name.c_str(), static_cast<ckpt_dtype>(dtype), strides.data(), data));
    return *this;
  }

  /// The same, of T's dtype.
  template <typename T>
  Keras& bind(std::size_t layer, CString name, T* data) {
    return bind(layer, name, DtypeOf<T>::value, data);
  }
  template <typename T>
  Keras& bind(std::size_t layer, CString name, T* data, const Shape& strides) {
    return bind(layer, name, DtypeOf<T>::value, data, strides);
  }

  /// The same, row-major in a container or a Span, whose size has to be the variable's.
  template <typename C, typename T = std::remove_pointer_t<decltype(std::declval<C&>().data())>>
  Keras& bind(std::size_t layer, CString name, C&& buffer) {
    const Span<T> view(std::forward<C>(buffer));
    check_size(layer, name, view.size());
    return bind(layer, name, view.data());
  }

  /// Says that a variable is not in host memory, or not as Keras has it: functions move its bytes, and live as long as this
  /// object and the models that it makes. See Model::add_source().
  Keras& bind_source(std::size_t layer, CString name, Dtype dtype, FetchFunction fetch, PutFunction put = nullptr) {
    const auto source = std::make_shared<detail::Source>(detail::Source{std::move(fetch), std::move(put)});
    keep(source);
    detail::check(ckpt_keras_bind_source(handle_.get(), layer, name.c_str(), static_cast<ckpt_dtype>(dtype),
                                         source->on_fetch(), source->on_put(), source.get()));
    return *this;
  }

  /// Has something live as long as this object and the models that it makes: who owns the buffers, for example.
  Keras& keep(std::shared_ptr<void> owner) {
    kept_.push_back(std::move(owner));
    return *this;
  }

  /// Compiles the model: an optimizer, and its arguments and those of Keras' compile().
  Keras& compile(CString optimizer_class, CString config_json = "{}") {
    detail::check(ckpt_keras_compile(handle_.get(), optimizer_class.c_str(), config_json.c_str()));
    return *this;
  }

  /// Says where the optimizer's "iteration" or "learning_rate" is.
  template <typename T>
  Keras& bind_optimizer(CString slot, T* data) {
    detail::check(ckpt_keras_bind_optimizer(handle_.get(), slot.c_str(), 0, nullptr,
                                            static_cast<ckpt_dtype>(DtypeOf<T>::value), nullptr, data));
    return *this;
  }

  /// Says where what the optimizer knows of a variable is, of a dtype that is named: row-major, or with strides.
  Keras& bind_optimizer(CString slot, std::size_t layer, CString name, Dtype dtype, void* data) {
    detail::check(ckpt_keras_bind_optimizer(handle_.get(), slot.c_str(), layer, name.c_str(),
                                            static_cast<ckpt_dtype>(dtype), nullptr, data));
    return *this;
  }
  Keras& bind_optimizer(CString slot, std::size_t layer, CString name, Dtype dtype, void* data, const Shape& strides) {
    check_axes(layer, name, strides);
    detail::check(ckpt_keras_bind_optimizer(handle_.get(), slot.c_str(), layer, name.c_str(),
                                            static_cast<ckpt_dtype>(dtype), strides.data(), data));
    return *this;
  }

  /// The same, of T's dtype.
  template <typename T>
  Keras& bind_optimizer(CString slot, std::size_t layer, CString name, T* data) {
    return bind_optimizer(slot, layer, name, DtypeOf<T>::value, data);
  }

  /// The same, row-major in a container or a Span, whose size has to be the variable's.
  template <typename C, typename T = std::remove_pointer_t<decltype(std::declval<C&>().data())>>
  Keras& bind_optimizer(CString slot, std::size_t layer, CString name, C&& buffer) {
    const Span<T> view(std::forward<C>(buffer));
    check_size(layer, name, view.size());
    return bind_optimizer(slot, layer, name, view.data());
  }

  /// A model of what was added and bound.
  Model model() const {
    ckpt_model* handle = nullptr;
    detail::check(ckpt_keras_model(handle_.get(), &handle));
    Model model(handle);
    for (const auto& owner : kept_) model.keep(owner);
    return model;
  }

  /// The handle of C's, still owned by this object.
  ckpt_keras* get() const noexcept { return handle_.get(); }

 private:
  void check_axes(std::size_t layer, CString name, const Shape& strides) const {
    const auto axes = variable(layer, name).shape.size();
    if (strides.size() != axes) {
      throw Error(Status::InvalidArgument, "'" + name.str() + "' of layer " + std::to_string(layer) + " has " +
                                               std::to_string(axes) + " axes, but " + std::to_string(strides.size()) +
                                               " strides");
    }
  }
  void check_size(std::size_t layer, CString name, std::size_t size) const {
    const auto found = variable(layer, name);
    if (Shape(found.shape).holds(size)) return;
    std::string shape;
    for (const auto axis : found.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(axis);
    throw Error(Status::Mismatch, "the buffer of '" + name.str() + "' of layer " + std::to_string(layer) + " has " +
                                      std::to_string(size) + " elements, which are not those of the shape (" + shape +
                                      ")");
  }

  std::vector<std::shared_ptr<void>> kept_;  // outlives the handle
  detail::Handle<ckpt_keras, ckpt_keras_free> handle_;
};

}  // namespace libckpt

#endif  // CKPT_KERAS_HPP
