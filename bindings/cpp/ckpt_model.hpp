/// @file
/// The tensors of a model: what is saved and loaded. See ckpt.hpp.

#ifndef CKPT_MODEL_HPP
#define CKPT_MODEL_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ckpt.h"
#include "ckpt_types.hpp"

namespace libckpt {

/// A tensor that a load left as it was, and why.
struct Skipped {
  std::string path;
  std::string reason;
};

namespace detail {

/// Functions that move the bytes of a tensor, for C.
struct Source {
  FetchFunction fetch;
  PutFunction put;

  ckpt_fetch_fn on_fetch() const { return fetch ? &fetch_for_c : nullptr; }
  ckpt_put_fn on_put() const { return put ? &put_for_c : nullptr; }

 private:
  static ckpt_status fetch_for_c(void* dst, std::uint64_t offset, std::uint64_t nbytes, void* user) noexcept {
    return called_by_c([&] { static_cast<const Source*>(user)->fetch(dst, offset, nbytes); });
  }
  static ckpt_status put_for_c(const void* src, std::uint64_t offset, std::uint64_t nbytes, void* user) noexcept {
    return called_by_c([&] { static_cast<const Source*>(user)->put(src, offset, nbytes); });
  }
};

}  // namespace detail

/// The tensors of a model by their paths in the checkpoint. The buffers are borrowed: they have to live until the model
/// is destroyed or set_data() replaces them. (See keep().)
class Model {
 public:
  Model() {
    ckpt_model* handle = nullptr;
    detail::check(ckpt_model_new(&handle));
    handle_.reset(handle);
  }
  /// Owns a handle of C's from now on.
  explicit Model(ckpt_model* handle) noexcept : handle_(handle) {}

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

  /// Adds a tensor that is not in host memory: functions move its bytes, and live as keep() says. What they throw ends the
  /// save or the load with its text, and, unless it is an Error, Status::Io. Without `put` the tensor can be saved, not
  /// loaded into.
  Model& add_source(CString path, Dtype dtype, const Shape& shape, FetchFunction fetch, PutFunction put = nullptr) {
    const auto source = std::make_shared<detail::Source>(detail::Source{std::move(fetch), std::move(put)});
    keep(source);
    detail::check(ckpt_model_add_source(handle_.get(), path.c_str(), static_cast<ckpt_dtype>(dtype), shape.size(),
                                        shape.data(), source->on_fetch(), source->on_put(), source.get()));
    return *this;
  }

  /// Has something live as long as this object, and the saves of it that are being made: who owns the buffers, for example.
  /// Its end may come in a thread of the library's.
  Model& keep(std::shared_ptr<void> owner) {
    auto kept = std::make_unique<std::shared_ptr<void>>(std::move(owner));
    detail::check(ckpt_model_own(handle_.get(), nullptr, &let_go, kept.get()));
    kept.release();
    return *this;
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

  /// Sets an entry of what a .safetensors file says of itself.
  Model& set_metadata(CString key, CString value) {
    detail::check(ckpt_model_set_metadata(handle_.get(), key.c_str(), value.c_str()));
    return *this;
  }

  /// The tensors that the last Reader::load() with flags left as they were.
  std::vector<Skipped> skipped() const {
    std::vector<Skipped> all(ckpt_model_skipped_len(handle_.get()));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const char *path = nullptr, *reason = nullptr;
      detail::check(ckpt_model_skipped(handle_.get(), i, &path, &reason));
      all[i] = {path, reason};
    }
    return all;
  }

  /// Saves one file, with no policy, as a whole or not at all.
  void save(const Path& path) const {
    detail::check(ckpt_model_save(handle_.get(), path.c_str()));
  }

  /// The handle of C's, still owned by this object.
  ckpt_model* get() const noexcept { return handle_.get(); }

 private:
  Model& add(CString path, Dtype dtype, const Shape& shape, const std::int64_t* strides, void* data) {
    detail::check(ckpt_model_add(handle_.get(), path.c_str(), static_cast<ckpt_dtype>(dtype), shape.size(),
                                 shape.data(), strides, data));
    return *this;
  }

  static void let_go(void* kept) noexcept { delete static_cast<std::shared_ptr<void>*>(kept); }

  detail::Handle<ckpt_model, ckpt_model_free> handle_;
};

}  // namespace libckpt

#endif  // CKPT_MODEL_HPP
