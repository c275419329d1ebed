/// @file
/// Tensors of libtorch as libckpt takes them. See ckpt_torch.hpp.

#ifndef CKPT_TORCH_TENSORS_HPP
#define CKPT_TORCH_TENSORS_HPP

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include "ckpt.hpp"

namespace libckpt::detail {

/// The dtype of a tensor.
inline Dtype dtype_of(const at::Tensor& tensor, const std::string& path) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Dtype::F32;
    case at::kDouble:
      return Dtype::F64;
    case at::kHalf:
      return Dtype::F16;
    case at::kBFloat16:
      return Dtype::BF16;
    case at::kChar:
      return Dtype::I8;
    case at::kByte:
      return Dtype::U8;
    case at::kShort:
      return Dtype::I16;
    case at::kInt:
      return Dtype::I32;
    case at::kLong:
      return Dtype::I64;
    case at::kBool:
      return Dtype::Bool;
    default:
      throw Error(Status::Unsupported,
                  "tensor '" + path + "' is of a type that no checkpoint has: " + c10::toString(tensor.scalar_type()));
  }
}

inline Shape shape_of(c10::IntArrayRef axes) { return Shape(std::vector<std::int64_t>(axes.begin(), axes.end())); }

/// Whether the bytes of a tensor are where a pointer leads.
inline bool is_in_host_memory(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && !tensor.is_conj() && !tensor.is_neg();
}

inline void check_is_dense(const at::Tensor& tensor, const std::string& path) {
  const char* what = !tensor.defined()                 ? "undefined"
                     : tensor.is_meta()                ? "a shape alone, on the device meta"
                     : tensor.layout() != at::kStrided ? "sparse"
                                                       : nullptr;
  if (what != nullptr) {
    throw Error(Status::Unsupported, "tensor '" + path + "' has no elements side by side: it is " + what);
  }
}

// Module::to() and set_data() give a tensor other memory. What a model has is what was there before, so that it stays:
// the storage, or, in functions, the tensor detached.

/// Has the memory of a tensor stay as long as a model.
template <typename Keeper>
void keep_memory(Keeper& keeper, const at::Tensor& tensor) {
  keeper.keep(std::make_shared<c10::Storage>(tensor.storage()));
}

/// Calls libtorch, whose errors have the stack in their text.
template <typename Call>
void in_torch(Call&& call) {
  const at::NoGradGuard no_grad;
  try {
    call();
  } catch (const c10::Error& error) {
    throw Error(Status::Io, error.what_without_backtrace());
  }
}

/// The bytes of a tensor, one after the other in a tensor of bytes where it is.
inline at::Tensor bytes_of(const at::Tensor& tensor) {
  return tensor.resolve_neg().contiguous().view({-1}).view(at::kByte);
}

/// A function that gives the bytes of what `make` makes: a tensor that is not in host memory, or not side by side.
template <typename Make>
FetchFunction fetch_made(Make make) {
  // From the first piece to the last, since it may be a copy.
  const auto bytes = std::make_shared<at::Tensor>();
  return [make, bytes](void* dst, std::uint64_t offset, std::uint64_t nbytes) {
    in_torch([&] {
      if (offset == 0) *bytes = bytes_of(make());
      const auto from = static_cast<std::int64_t>(offset), n = static_cast<std::int64_t>(nbytes);
      const at::Tensor part = bytes->narrow(0, from, n).cpu();
      std::memcpy(dst, part.data_ptr(), nbytes);
      if (from + n == bytes->numel()) bytes->reset();
    });
  };
}
inline FetchFunction fetch_of(const at::Tensor& tensor) {
  return fetch_made([tensor = tensor.detach()] { return tensor; });
}

/// A function that takes the bytes of a tensor.
inline PutFunction put_of(const at::Tensor& parameter) {
  return [tensor = parameter.detach()](const void* src, std::uint64_t offset, std::uint64_t nbytes) {
    in_torch([&] {
      const auto size = static_cast<std::int64_t>(tensor.element_size());
      const auto n = static_cast<std::int64_t>(nbytes) / size, from = static_cast<std::int64_t>(offset) / size;
      // Copied there before `src` goes: blocking, as it is not pinned.
      at::Tensor part = at::empty({n}, tensor.options().device(at::kCPU));
      std::memcpy(part.data_ptr(), src, nbytes);
      if (tensor.is_contiguous()) {
        tensor.view({-1}).narrow(0, from, n).copy_(part);
      } else {
        const at::Tensor index = at::arange(from, from + n, at::TensorOptions(at::kLong).device(tensor.device()));
        tensor.put_(index, part.to(tensor.device()));
      }
    });
  };
}

inline void add_tensor(Model& model, const std::string& path, const at::Tensor& tensor) {
  check_is_dense(tensor, path);
  const Dtype dtype = dtype_of(tensor, path);
  if (is_in_host_memory(tensor)) {
    model.add(path, dtype, tensor.data_ptr(), shape_of(tensor.sizes()), shape_of(tensor.strides()));
    keep_memory(model, tensor);
  } else {
    model.add_source(path, dtype, shape_of(tensor.sizes()), fetch_of(tensor), put_of(tensor));
  }
}

}  // namespace libckpt::detail

#endif  // CKPT_TORCH_TENSORS_HPP
