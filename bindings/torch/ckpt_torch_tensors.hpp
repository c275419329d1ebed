/// @file
/// Tensors of libtorch as libckpt takes them. See ckpt_torch.hpp.

#ifndef CKPT_TORCH_TENSORS_HPP
#define CKPT_TORCH_TENSORS_HPP

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include "ckpt.hpp"

namespace libckpt::detail {

/// The dtype of a tensor.
inline Dtype dtype_of(const at::Tensor& tensor, const std::string& path) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return Dtype::F32;
    case at::kDouble: return Dtype::F64;
    case at::kHalf: return Dtype::F16;
    case at::kBFloat16: return Dtype::BF16;
    case at::kChar: return Dtype::I8;
    case at::kByte: return Dtype::U8;
    case at::kShort: return Dtype::I16;
    case at::kInt: return Dtype::I32;
    case at::kLong: return Dtype::I64;
    case at::kBool: return Dtype::Bool;
    default:
      throw Error(Status::Unsupported,
                  "tensor '" + path + "' is of a type that no checkpoint has: " + c10::toString(tensor.scalar_type()));
  }
}

inline Shape shape_of(c10::IntArrayRef axes) { return Shape(std::vector<std::int64_t>(axes.begin(), axes.end())); }

/// Whether the bytes of a tensor are where a pointer leads.
inline bool is_in_host_memory(const at::Tensor& tensor) { return tensor.device().is_cpu() && !tensor.is_conj() && !tensor.is_neg(); }

inline void check_is_dense(const at::Tensor& tensor, const std::string& path) {
  if (!tensor.defined() || tensor.layout() != at::kStrided) {
    throw Error(Status::Unsupported, "tensor '" + path + "' has no elements side by side: it is " +
                                         (tensor.defined() ? "sparse" : "undefined"));
  }
}

/// The bytes of a tensor that is elsewhere, one after the other in a tensor of bytes there.
inline at::Tensor bytes_of(const at::Tensor& tensor) {
  return tensor.detach().contiguous().view({-1}).view(at::kByte);
}

/// Functions that move the bytes of a tensor that is not in host memory; they keep it.
inline FetchFunction fetch_of(at::Tensor tensor) {
  return [tensor = std::move(tensor)](void* dst, std::uint64_t offset, std::uint64_t nbytes) {
    const at::NoGradGuard no_grad;
    const auto from = static_cast<std::int64_t>(offset), n = static_cast<std::int64_t>(nbytes);
    const at::Tensor part = bytes_of(tensor).narrow(0, from, n).cpu();
    std::memcpy(dst, part.data_ptr(), nbytes);
  };
}
inline PutFunction put_of(at::Tensor tensor) {
  return [tensor = std::move(tensor)](const void* src, std::uint64_t offset, std::uint64_t nbytes) {
    const at::NoGradGuard no_grad;
    const auto size = static_cast<std::int64_t>(tensor.element_size());
    const auto n = static_cast<std::int64_t>(nbytes) / size, from = static_cast<std::int64_t>(offset) / size;
    // Copied there before `src` goes: blocking, as it is not pinned.
    at::Tensor part = at::empty({n}, tensor.options().device(at::kCPU));
    std::memcpy(part.data_ptr(), src, nbytes);
    if (tensor.is_contiguous()) {
      tensor.detach().view({-1}).narrow(0, from, n).copy_(part);
    } else {
      const at::Tensor index = at::arange(from, from + n, at::TensorOptions(at::kLong).device(tensor.device()));
      tensor.detach().put_(index, part.to(tensor.device()));
    }
  };
}

inline void add_tensor(Model& model, const std::string& path, const at::Tensor& tensor) {
  check_is_dense(tensor, path);
  const Dtype dtype = dtype_of(tensor, path);
  if (is_in_host_memory(tensor)) {
    model.add(path, dtype, tensor.data_ptr(), shape_of(tensor.sizes()), shape_of(tensor.strides()));
  } else {
    model.add_source(path, dtype, shape_of(tensor.sizes()), fetch_of(tensor), put_of(tensor));
  }
}

}  // namespace libckpt::detail

#endif  // CKPT_TORCH_TENSORS_HPP
