/// @file
/// Modules for a Sequential: behind an LSTM or a GRU, and another Sequential. See ckpt_torch.hpp.

#ifndef CKPT_TORCH_MODULES_HPP
#define CKPT_TORCH_MODULES_HPP

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include "ckpt.hpp"

namespace libckpt {

/// What a recurrent module gives, LSTM or GRU, of which a Sequential hands on one tensor.
struct Recurrent {
  using State = std::tuple<at::Tensor, at::Tensor>;

  Recurrent(const std::tuple<at::Tensor, State>& lstm) : output(std::get<0>(lstm)) {}
  Recurrent(const std::tuple<at::Tensor, at::Tensor>& gru) : output(std::get<0>(gru)) {}

  at::Tensor output;
};

/// The outputs of all steps of the LSTM or GRU before it, in a Sequential.
class TakeOutputImpl : public torch::nn::Module {
 public:
  at::Tensor forward(Recurrent from) { return from.output; }
};

/// The output of the last step of the LSTM or GRU before it, in a Sequential; they have batch_first.
class TakeLastImpl : public torch::nn::Module {
 public:
  at::Tensor forward(Recurrent from) { return from.output.select(1, -1); }
};

/// A Sequential that can stand in a Sequential: libtorch's cannot, since its forward() is a template.
class StackImpl : public torch::nn::SequentialImpl {
 public:
  using torch::nn::SequentialImpl::SequentialImpl;

  at::Tensor forward(at::Tensor x) { return torch::nn::SequentialImpl::forward(x); }

  std::shared_ptr<torch::nn::Module> clone(const at::optional<at::Device>& device = at::nullopt) const override {
    const auto copy = std::make_shared<StackImpl>();
    for (const auto& module : *this) copy->push_back(module.clone(device));
    return copy;
  }
};

TORCH_MODULE(TakeOutput);
TORCH_MODULE(TakeLast);
TORCH_MODULE(Stack);

namespace detail {

/// A Sequential calls a module with what the one before it gave, of that type alone; these take two.
template <typename Module>
struct RecurrentHolder : torch::nn::AnyModulePlaceholder {
  explicit RecurrentHolder(std::shared_ptr<Module>&& held)
      : torch::nn::AnyModulePlaceholder(typeid(Module)), module(std::move(held)) {}

  torch::nn::AnyValue forward(std::vector<torch::nn::AnyValue>&& arguments) override {
    using Lstm = std::tuple<at::Tensor, Recurrent::State>;
    if (arguments.size() == 1) {
      if (auto* lstm = arguments[0].try_get<Lstm>()) return torch::nn::AnyValue(module->forward(*lstm));
      if (auto* gru = arguments[0].try_get<Recurrent::State>()) return torch::nn::AnyValue(module->forward(*gru));
    }
    throw Error(Status::InvalidArgument, "TakeOutput and TakeLast stand behind an LSTM or a GRU");
  }
  std::shared_ptr<torch::nn::Module> ptr() override { return module; }
  std::unique_ptr<torch::nn::AnyModulePlaceholder> copy() const override {
    return std::make_unique<RecurrentHolder>(*this);
  }
  std::unique_ptr<torch::nn::AnyModulePlaceholder> clone_module(at::optional<at::Device>) const override {
    return std::make_unique<RecurrentHolder>(std::make_shared<Module>());
  }

  std::shared_ptr<Module> module;
};

}  // namespace detail
}  // namespace libckpt

/// A Sequential hands these what an LSTM or a GRU gave.
template <typename... Arguments>
struct torch::nn::AnyModuleHolder<libckpt::TakeOutputImpl, Arguments...>
    : libckpt::detail::RecurrentHolder<libckpt::TakeOutputImpl> {
  using libckpt::detail::RecurrentHolder<libckpt::TakeOutputImpl>::RecurrentHolder;
};
template <typename... Arguments>
struct torch::nn::AnyModuleHolder<libckpt::TakeLastImpl, Arguments...>
    : libckpt::detail::RecurrentHolder<libckpt::TakeLastImpl> {
  using libckpt::detail::RecurrentHolder<libckpt::TakeLastImpl>::RecurrentHolder;
};

#endif  // CKPT_TORCH_MODULES_HPP
