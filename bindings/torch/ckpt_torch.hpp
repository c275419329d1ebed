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

#include <cstddef>
#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include <torch/torch.h>

#include "ckpt.hpp"
#include "ckpt_torch_keras.hpp"
#include "ckpt_torch_tensors.hpp"

namespace libckpt::detail {

/// The key of a parameter's state: its address, or that as text, by the version of libtorch.
template <typename Key>
Key state_key(const at::Tensor& parameter) {
  if constexpr (std::is_same_v<Key, std::string>) {
    std::ostringstream text;
    text << parameter.unsafeGetTensorImpl();
    return text.str();
  } else {
    return Key(parameter.unsafeGetTensorImpl());
  }
}

/// Adds the state of an optimizer whose options and state are of these types; `make` makes the state of a parameter as the
/// first step would, `add` adds it; without `has_state` there is none.
template <typename Options, typename State, typename Make, typename Add>
void add_optimizer(Model& model, ::torch::optim::Optimizer& optimizer, bool has_state, Make&& make, Add&& add) {
  const at::NoGradGuard no_grad;
  using Key = typename std::decay_t<decltype(optimizer.state())>::key_type;
  std::size_t number = 0, group_number = 0;
  for (auto& group : optimizer.param_groups()) {
    auto& options = static_cast<Options&>(group.options());
    const auto of_group = "optimizer/param_groups/" + std::to_string(group_number++);
    model.add(of_group + "/lr", &options.lr(), {});
    if (!has_state) continue;
    for (auto& parameter : group.params()) {
      const auto key = state_key<Key>(parameter);
      if (optimizer.state().find(key) == optimizer.state().end()) {
        auto fresh = std::make_unique<State>();
        make(options, *fresh, parameter);
        optimizer.state()[key] = std::move(fresh);
      }
      auto& state = optimizer.state()[key];
      add("optimizer/state/" + std::to_string(number++), options, static_cast<State&>(*state));
    }
  }
}

inline at::Tensor zeros_of(const at::Tensor& tensor) { return ::torch::zeros_like(tensor, at::MemoryFormat::Preserve); }

/// Adam and AdamW.
template <typename Options, typename State>
void add_adam(Model& model, ::torch::optim::Optimizer& optimizer) {
  add_optimizer<Options, State>(
      model, optimizer, true,
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
      model, optimizer, true,
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

/// SGD. Only the first step dampens nothing, so a buffer of zeros is not as none: where one is missing, there is no state yet,
/// unless it is about to be loaded.
inline void add_sgd(Model& model, ::torch::optim::Optimizer& optimizer, bool loads) {
  using Options = ::torch::optim::SGDOptions;
  using State = ::torch::optim::SGDParamState;
  bool has_buffers = false;
  for (const auto& group : optimizer.param_groups()) {
    has_buffers = has_buffers || static_cast<const Options&>(group.options()).momentum() != 0;
  }
  add_optimizer<Options, State>(
      model, optimizer, has_buffers,
      [loads](const Options& options, State& state, const at::Tensor& parameter) {
        if (options.momentum() != 0 && options.dampening() != 0 && !loads) {
          throw Error(Status::State, "SGD with dampening has a state of each parameter only after its first step: add it then");
        }
        state.momentum_buffer(zeros_of(parameter));
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
  static void add(libckpt::Model& model, ::torch::optim::Optimizer& optimizer) { add(model, optimizer, false); }

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
    add(model, optimizer, true);
    reader.load(model);
  }

  /// A Sequential as the Keras model that gives the same outputs: Linear, Conv1d, Conv2d, BatchNorm1d, BatchNorm2d, LayerNorm,
  /// Embedding, LSTM, GRU (batch_first; last, or followed by TakeOutput or TakeLast), Dropout, pooling without padding, Flatten and
  /// activations. Channels go last, by strides alone: nothing is copied but the gates of a GRU and
  /// the biases of an LSTM, which Keras has in another form, at each save. The model borrows the module's memory and keeps
  /// the module alive; loaded into, it fills the module. Training or not makes no difference.
  ///
  /// @param input_shape  of one sample, as libtorch has it: (C, H, W), (C, L) where the first layer that tells has channels,
  ///                     else (steps, features), or (features); -1 where any size will do. Keras' model takes (H, W, C), (L, C).
  ///
  /// Throws Error: Status::Unsupported, with the name of the module, where Keras has no counterpart; Status::InvalidArgument
  /// where the modules do not fit each other.
  static libckpt::Model to_keras(::torch::nn::Sequential sequential, std::vector<std::int64_t> input_shape) {
    libckpt::Model model = libckpt::detail::Translation(sequential, input_shape).model();
    model.keep(sequential.ptr());
    return model;
  }

  /// Modules behind an LSTM or a GRU in a Sequential: the outputs of all its steps, or of the last one.
  using TakeOutput = libckpt::TakeOutput;
  using TakeLast = libckpt::TakeLast;

 private:
  static void add(libckpt::Model& model, ::torch::optim::Optimizer& optimizer, bool loads) {
    namespace optim = ::torch::optim;
    if (dynamic_cast<optim::AdamW*>(&optimizer) != nullptr) {
      libckpt::detail::add_adam<optim::AdamWOptions, optim::AdamWParamState>(model, optimizer);
    } else if (dynamic_cast<optim::Adam*>(&optimizer) != nullptr) {
      libckpt::detail::add_adam<optim::AdamOptions, optim::AdamParamState>(model, optimizer);
    } else if (dynamic_cast<optim::RMSprop*>(&optimizer) != nullptr) {
      libckpt::detail::add_rmsprop(model, optimizer);
    } else if (dynamic_cast<optim::SGD*>(&optimizer) != nullptr) {
      libckpt::detail::add_sgd(model, optimizer, loads);
    } else {
      throw libckpt::Error(libckpt::Status::Unsupported,
                           "of optimizers, Adam, AdamW, RMSprop and SGD can be added, not " +
                               c10::demangle(typeid(optimizer).name()));
    }
  }
};

#endif  // CKPT_TORCH_HPP
