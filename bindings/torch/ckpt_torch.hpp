/// @file
/// libckpt for libtorch, 1.13 and later: modules and optimizers in checkpoints, and Keras models of Sequential ones.
///
///     ckpt::Model model;
///     ckpt::torch::add(model, *net);         // every parameter and buffer, by its name
///     ckpt::torch::add(model, optimizer);    // its state
///     ...
///     if (session.should_save()) session.save(model);
///
///     ckpt::torch::load(ckpt::Reader("best.safetensors"), *net);
///     ckpt::torch::to_keras(sequential, {1, 8, 8}).save("model.keras");
///
/// What is in host memory is neither copied nor kept: the module and the optimizer have to outlive the model, and their
/// tensors stay where they are (Module::to() moves them: make the model anew then). Tensors elsewhere are copied piece by
/// piece while they are saved, on the current stream. By one thread at a time, as models are.

#ifndef CKPT_TORCH_HPP
#define CKPT_TORCH_HPP

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
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

/// The key of a parameter's state: its address, or that as text, by the version of libtorch.
template <typename Key>
Key state_key(const at::Tensor& parameter) {
  if constexpr (std::is_same_v<Key, std::string>) {
    return c10::guts::to_string(parameter.unsafeGetTensorImpl());
  } else {
    return Key(parameter.unsafeGetTensorImpl());
  }
}

/// Adds the state of an optimizer whose options and state are of these types; `make` makes the state of a parameter as the
/// first step would, `add` adds it.
template <typename Options, typename State, typename Make, typename Add>
void add_optimizer(Model& model, ::torch::optim::Optimizer& optimizer, Make&& make, Add&& add) {
  const at::NoGradGuard no_grad;
  using Key = typename std::decay_t<decltype(optimizer.state())>::key_type;
  std::size_t number = 0, group_number = 0;
  for (auto& group : optimizer.param_groups()) {
    auto& options = static_cast<Options&>(group.options());
    const auto of_group = "optimizer/param_groups/" + std::to_string(group_number++);
    model.add(of_group + "/lr", &options.lr(), {});
    for (auto& parameter : group.params()) {
      auto& state = optimizer.state()[state_key<Key>(parameter)];
      if (state == nullptr) {
        auto fresh = std::make_unique<State>();
        make(options, *fresh, parameter);
        state = std::move(fresh);
      }
      add("optimizer/state/" + std::to_string(number++), options, static_cast<State&>(*state));
    }
  }
}

inline at::Tensor zeros_of(const at::Tensor& tensor) { return ::torch::zeros_like(tensor, at::MemoryFormat::Preserve); }

/// Adam and AdamW.
template <typename Options, typename State>
void add_adam(Model& model, ::torch::optim::Optimizer& optimizer) {
  add_optimizer<Options, State>(
      model, optimizer,
      [](const Options& options, State& state, const at::Tensor& parameter) {
        state.step(0);
        state.exp_avg(zeros_of(parameter));
        state.exp_avg_sq(zeros_of(parameter));
        if (options.amsgrad()) state.max_exp_avg_sq(zeros_of(parameter));
      },
      [&](const std::string& path, const Options& options, State& state) {
        model.add(path + "/step", &state.step(), {});
        add_tensor(model, path + "/exp_avg", state.exp_avg());
        add_tensor(model, path + "/exp_avg_sq", state.exp_avg_sq());
        if (options.amsgrad()) add_tensor(model, path + "/max_exp_avg_sq", state.max_exp_avg_sq());
      });
}

inline void add_rmsprop(Model& model, ::torch::optim::Optimizer& optimizer) {
  using Options = ::torch::optim::RMSpropOptions;
  using State = ::torch::optim::RMSpropParamState;
  add_optimizer<Options, State>(
      model, optimizer,
      [](const Options& options, State& state, const at::Tensor& parameter) {
        state.step(0);
        state.square_avg(zeros_of(parameter));
        if (options.momentum() > 0) state.momentum_buffer(zeros_of(parameter));
        if (options.centered()) state.grad_avg(zeros_of(parameter));
      },
      [&](const std::string& path, const Options& options, State& state) {
        model.add(path + "/step", &state.step(), {});
        add_tensor(model, path + "/square_avg", state.square_avg());
        if (options.momentum() > 0) add_tensor(model, path + "/momentum_buffer", state.momentum_buffer());
        if (options.centered()) add_tensor(model, path + "/grad_avg", state.grad_avg());
      });
}

inline void add_sgd(Model& model, ::torch::optim::Optimizer& optimizer) {
  using Options = ::torch::optim::SGDOptions;
  using State = ::torch::optim::SGDParamState;
  for (const auto& group : optimizer.param_groups()) {
    const auto& options = static_cast<const Options&>(group.options());
    if (options.momentum() != 0 && options.dampening() != 0 && optimizer.state().empty()) {
      // Only the first step dampens nothing: a buffer of zeros would not be as none.
      throw Error(Status::State, "SGD with dampening has a state only after its first step: add it then");
    }
  }
  add_optimizer<Options, State>(
      model, optimizer,
      [](const Options& options, State& state, const at::Tensor& parameter) {
        if (options.momentum() != 0) state.momentum_buffer(zeros_of(parameter));
      },
      [&](const std::string& path, const Options& options, State& state) {
        if (options.momentum() != 0) add_tensor(model, path + "/momentum_buffer", state.momentum_buffer());
      });
}

/// A tensor has been written to: a graph that was recorded before does not go back through what is new.
inline void bump(const at::Tensor& tensor) {
  if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

}  // namespace libckpt::detail

/// Nobody makes one: its functions are called as ckpt::torch::add().
struct ckpt::torch {
  torch() = delete;

  /// Adds every parameter and buffer of a module, by its name ("conv1.weight"), strided as it is: no copy. With
  /// .safetensors, Python's load_state_dict() takes the file.
  static void add(libckpt::Model& model, ::torch::nn::Module& module) {
    for (const auto& item : module.named_parameters()) libckpt::detail::add_tensor(model, item.key(), item.value());
    for (const auto& item : module.named_buffers()) libckpt::detail::add_tensor(model, item.key(), item.value());
  }

  /// Adds the state of Adam, AdamW, RMSprop or SGD, as "optimizer/state/<parameter>/...", and the learning rate of each
  /// group. An optimizer that has made no step gets the state that its first step would begin with. Status::Unsupported of
  /// others.
  static void add(libckpt::Model& model, ::torch::optim::Optimizer& optimizer) {
    namespace optim = ::torch::optim;
    if (dynamic_cast<optim::AdamW*>(&optimizer) != nullptr) {
      libckpt::detail::add_adam<optim::AdamWOptions, optim::AdamWParamState>(model, optimizer);
    } else if (dynamic_cast<optim::Adam*>(&optimizer) != nullptr) {
      libckpt::detail::add_adam<optim::AdamOptions, optim::AdamParamState>(model, optimizer);
    } else if (dynamic_cast<optim::RMSprop*>(&optimizer) != nullptr) {
      libckpt::detail::add_rmsprop(model, optimizer);
    } else if (dynamic_cast<optim::SGD*>(&optimizer) != nullptr) {
      libckpt::detail::add_sgd(model, optimizer);
    } else {
      throw libckpt::Error(libckpt::Status::Unsupported,
                           "of optimizers, Adam, AdamW, RMSprop and SGD can be added, not " +
                               c10::demangle(typeid(optimizer).name()));
    }
  }

  /// Fills a module from a file, in place: every parameter and buffer has to be in it, as it is here.
  static void load(const libckpt::Reader& reader, ::torch::nn::Module& module) {
    const at::NoGradGuard no_grad;
    libckpt::Model model;
    add(model, module);
    reader.load(model);
    for (const auto& tensor : module.parameters()) libckpt::detail::bump(tensor);
    for (const auto& tensor : module.buffers()) libckpt::detail::bump(tensor);
  }

  /// Fills the state of an optimizer from a file, in place; it has to be of the same class, for the same parameters.
  static void load(const libckpt::Reader& reader, ::torch::optim::Optimizer& optimizer) {
    const at::NoGradGuard no_grad;
    libckpt::Model model;
    add(model, optimizer);
    reader.load(model);
  }
};

#endif  // CKPT_TORCH_HPP
