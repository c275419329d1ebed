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
/// What is in host memory is not copied: a save writes what is there then. A model is of the tensors that there are
/// when it is made, and keeps their memory. Where they get another one (Module::to(), Tensor::set_data()), or
/// parameters or states are added or replaced (torch::load() of an optimizer), it goes on to save, and to fill, the old
/// ones: make it anew. The optimizer has to outlive it, and no tensor be resized. Tensors elsewhere are copied piece by
/// piece while they are saved, on the current stream. By one thread at a time, as models are.

#ifndef CKPT_TORCH_HPP
#define CKPT_TORCH_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <type_traits>
#include <typeinfo>
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

/// Adds the state of an optimizer whose options and state are of these types; `make` makes the state of a parameter as
/// the first step would, `add` adds it; there is none in a group whose options have none.
template <typename Options, typename State, typename HasState, typename Make, typename Add>
void add_optimizer(Model& model, ::torch::optim::Optimizer& optimizer, HasState&& has_state, Make&& make, Add&& add) {
  const at::NoGradGuard no_grad;
  using Key = typename std::decay_t<decltype(optimizer.state())>::key_type;
  const auto each = [&](auto&& visit) {
    std::size_t number = 0;
    for (auto& group : optimizer.param_groups()) {
      auto& options = static_cast<Options&>(group.options());
      for (auto& parameter : group.params()) {
        const auto path = "optimizer/state/" + std::to_string(number++);
        if (has_state(options)) visit(path, options, parameter, state_key<Key>(parameter));
      }
    }
  };
  // First all of them, so that nothing is added where one cannot be made.
  each([&](const std::string& path, const Options& options, const at::Tensor& parameter, const Key& key) {
    if (optimizer.state().find(key) != optimizer.state().end()) return;
    auto fresh = std::make_unique<State>();
    make(path, options, *fresh, parameter);
    optimizer.state()[key] = std::move(fresh);
  });
  std::size_t number = 0;
  for (auto& group : optimizer.param_groups()) {
    model.add("optimizer/param_groups/" + std::to_string(number++) + "/lr",
              &static_cast<Options&>(group.options()).lr(), {});
  }
  each([&](const std::string& path, const Options& options, const at::Tensor&, const Key& key) {
    add(path, options, static_cast<State&>(*optimizer.state()[key]));
  });
}

constexpr auto always = [](const auto&) { return true; };

inline at::Tensor zeros_of(const at::Tensor& tensor) { return ::torch::zeros_like(tensor, at::MemoryFormat::Preserve); }

/// Adam and AdamW.
template <typename Options, typename State>
void add_adam(Model& model, ::torch::optim::Optimizer& optimizer) {
  add_optimizer<Options, State>(
      model, optimizer, always,
      [](const std::string&, const Options& options, State& state, const at::Tensor& parameter) {
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
      model, optimizer, always,
      [](const std::string&, const Options& options, State& state, const at::Tensor& parameter) {
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

/// SGD. Only the first step dampens nothing, so a buffer of zeros is not as none: where one is missing, there is no
/// state yet, unless it is about to be loaded.
inline void add_sgd(Model& model, ::torch::optim::Optimizer& optimizer, bool loads) {
  using Options = ::torch::optim::SGDOptions;
  using State = ::torch::optim::SGDParamState;
  add_optimizer<Options, State>(
      model, optimizer, [](const Options& options) { return options.momentum() != 0; },
      [loads](const std::string& path, const Options& options, State& state, const at::Tensor& parameter) {
        if (options.dampening() != 0 && !loads) {
          throw Error(Status::State,
                      "'" + path +
                          "': SGD with dampening has a state of a parameter only after its first step with a "
                          "gradient: add it then, and give it no parameters that are frozen");
        }
        state.momentum_buffer(zeros_of(parameter));
      },
      [&](const std::string& path, const Options&, State& state) {
        add_tensor(model, path + "/momentum_buffer", state.momentum_buffer());
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
  /// group. An optimizer that has made no step gets the state that its first step would begin with. Status::Unsupported
  /// of others, and of classes derived from these, which may have another state.
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
    auto& states = optimizer.state();
    std::set<typename std::decay_t<decltype(states)>::key_type> had;
    for (const auto& state : states) had.insert(state.first);
    try {
      libckpt::Model model;
      add(model, optimizer, true);
      reader.load(model);
    } catch (...) {
      // What was made to be filled: SGD with dampening would not begin with it.
      for (auto it = states.begin(); it != states.end();) {
        if (had.count(it->first) == 0) it = states.erase(it);
        else ++it;
      }
      throw;
    }
  }

  /// A Sequential as the Keras model that gives the same outputs: Linear, Conv1d, Conv2d, BatchNorm1d, BatchNorm2d,
  /// LayerNorm, Embedding, LSTM, GRU (batch_first; last, or followed by TakeOutput or TakeLast), Dropout, pooling
  /// without padding, Flatten, activations, and Stacks of these. Channels go last, by strides alone: nothing is copied
  /// but the gates of a GRU and the biases of an LSTM, which Keras has in another form, at each save. The model borrows
  /// the module's memory and keeps the module alive; loaded into, it fills the module. Training or not makes no
  /// difference; a module whose parameters all have requires_grad unset is a layer that Keras does not train.
  ///
  /// @param input_shape  of one sample, as libtorch has it: (C, H, W), (C, L) where the first layer that tells has
  ///                     channels, else (steps, features), or (features); -1 where any size will do. Keras' model
  ///                     takes (H, W, C), (L, C).
  ///
  /// Throws Error, with the name of the module: Status::Unsupported where Keras has no counterpart, as of any class
  /// that is derived from these modules; Status::InvalidArgument where libtorch would not compute either, as where
  /// modules do not fit each other.
  static libckpt::Model to_keras(::torch::nn::Sequential sequential, std::vector<std::int64_t> input_shape) {
    if (sequential.is_empty()) {
      throw libckpt::Error(libckpt::Status::InvalidArgument, "to_keras: the Sequential is null");
    }
    if (typeid(*sequential) != typeid(::torch::nn::SequentialImpl) &&
        typeid(*sequential) != typeid(libckpt::StackImpl)) {
      throw libckpt::Error(libckpt::Status::Unsupported,
                           "to_keras: " + c10::demangle(typeid(*sequential).name()) +
                               " is derived from Sequential, and may compute something else");
    }
    libckpt::Model model = libckpt::detail::Translation(*sequential, input_shape).model();
    model.keep(sequential.ptr());
    return model;
  }

  /// Modules behind an LSTM or a GRU in a Sequential: the outputs of all its steps, or of the last one.
  using TakeOutput = libckpt::TakeOutput;
  using TakeLast = libckpt::TakeLast;

  /// A Sequential that can stand in a Sequential, as libtorch's cannot.
  using Stack = libckpt::Stack;

 private:
  static void add(libckpt::Model& model, ::torch::optim::Optimizer& optimizer, bool loads) {
    namespace optim = ::torch::optim;
    const auto& type = typeid(optimizer);
    if (type == typeid(optim::AdamW)) {
      libckpt::detail::add_adam<optim::AdamWOptions, optim::AdamWParamState>(model, optimizer);
    } else if (type == typeid(optim::Adam)) {
      libckpt::detail::add_adam<optim::AdamOptions, optim::AdamParamState>(model, optimizer);
    } else if (type == typeid(optim::RMSprop)) {
      libckpt::detail::add_rmsprop(model, optimizer);
    } else if (type == typeid(optim::SGD)) {
      libckpt::detail::add_sgd(model, optimizer, loads);
    } else {
      throw libckpt::Error(
          libckpt::Status::Unsupported,
          "of optimizers, Adam, AdamW, RMSprop and SGD can be added, not " + c10::demangle(type.name()));
    }
  }
};

#endif  // CKPT_TORCH_HPP
