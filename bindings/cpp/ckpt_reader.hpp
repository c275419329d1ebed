/// @file
/// The way back: an open checkpoint. See ckpt.hpp.

#ifndef CKPT_READER_HPP
#define CKPT_READER_HPP

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ckpt.h"
#include "ckpt_model.hpp"
#include "ckpt_types.hpp"

namespace libckpt {

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
  explicit Reader(const Path& path, Open flags = Open::Default) {
    ckpt_reader* handle = nullptr;
    detail::check(ckpt_reader_open_flags(path.c_str(), static_cast<std::uint32_t>(flags), &handle));
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
  void load(Model& model) const {
    detail::check(ckpt_reader_load(handle_.get(), model.get()));
  }
  /// Fills the tensors of a model that need not be the file's, and says how many; Model::skipped() tells the others.
  std::size_t load(Model& model, Load flags, Span<const Rename> renames) const {
    std::size_t loaded = 0;
    detail::check(ckpt_reader_load_flags(handle_.get(), model.get(), static_cast<std::uint32_t>(flags), renames.data(),
                                         renames.size(), &loaded));
    return loaded;
  }
  std::size_t load(Model& model, Load flags, std::initializer_list<Rename> renames = {}) const {
    return load(model, flags, Span<const Rename>(renames.begin(), renames.size()));
  }
  /// Compares all tensors with their checksums.
  void verify() const { detail::check(ckpt_reader_verify(handle_.get())); }

  /// The model's configuration, JSON, if the file has it. Valid while the reader lives, as all that follows.
  std::optional<std::string_view> config() const { return text(ckpt_reader_config); }
  /// What the file says of itself, JSON, if it does.
  std::optional<std::string_view> metadata() const { return text(ckpt_reader_metadata); }
  /// The training state that this library has put into the file, JSON.
  std::optional<std::string_view> state() const { return text(ckpt_reader_state); }

  /// Keras' name of a group, if it has one.
  std::optional<std::string_view> name(CString group) const {
    return text([&group](const ckpt_reader* reader, const char** out) {
      return ckpt_reader_name(reader, group.c_str(), out);
    });
  }
  /// Every group that has a name, and that name.
  std::vector<std::pair<std::string_view, std::string_view>> groups() const {
    std::vector<std::pair<std::string_view, std::string_view>> all(ckpt_reader_groups_len(handle_.get()));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const char *group = nullptr, *name = nullptr;
      detail::check(ckpt_reader_group(handle_.get(), i, &group, &name));
      all[i] = {group, name};
    }
    return all;
  }

  /// The names of the assets of a .keras file.
  std::vector<std::string_view> assets() const {
    std::vector<std::string_view> all(ckpt_reader_assets_len(handle_.get()));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const char* name = nullptr;
      detail::check(ckpt_reader_asset_name(handle_.get(), i, &name));
      all[i] = name;
    }
    return all;
  }
  /// The bytes of an asset, if there is one of that name.
  std::optional<Span<const std::uint8_t>> asset(CString name) const {
    const void* bytes = nullptr;
    std::size_t n = 0;
    if (!detail::found(ckpt_reader_asset(handle_.get(), name.c_str(), &bytes, &n))) return std::nullopt;
    return Span<const std::uint8_t>(static_cast<const std::uint8_t*>(bytes), n);
  }

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
  template <typename Getter>
  std::optional<std::string_view> text(Getter getter) const {
    const char* text = nullptr;
    return detail::found(getter(handle_.get(), &text)) ? std::optional<std::string_view>(text) : std::nullopt;
  }

  detail::Handle<ckpt_reader, ckpt_reader_free> handle_;
};

/// Writes a checkpoint anew in the format that the ending of `dst` says.
inline void convert(const Path& src, const Path& dst) { detail::check(ckpt_convert(src.c_str(), dst.c_str())); }

}  // namespace libckpt

#endif  // CKPT_READER_HPP
