// A training that goes on from a file in other objects takes the same steps, to the bit: of each optimizer, in two
// formats. What cannot be saved is refused with its name.

#include "check.hpp"

namespace nn = torch::nn;
namespace optim = torch::optim;
using libckpt::Status;

namespace {

struct Net : nn::Module {
  Net() {
    conv = register_module("conv", nn::Conv2d(nn::Conv2dOptions(1, 4, 3)));
    norm = register_module("norm", nn::BatchNorm2d(4));
    linear = register_module("linear", nn::Linear(4 * 36, 5));
    // Not row-major: as it is after a transposition.
    skew = register_parameter("skew", torch::randn({5, 3}).t().detach().requires_grad_());
  }
  at::Tensor forward(at::Tensor x) { return linear(torch::relu(norm(conv(x))).flatten(1)) + skew.sum(0); }

  nn::Conv2d conv{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear linear{nullptr};
  at::Tensor skew;
};

template <typename Make>
void goes_on(const std::string& name, Make make) {
  torch::manual_seed(1);
  const auto x = torch::randn({8, 1, 8, 8}), y = torch::randn({8, 5});
  const auto step = [&](Net& net, auto& optimizer) {
    optimizer.zero_grad();
    const auto loss = torch::mse_loss(net.forward(x), y);
    loss.backward();
    optimizer.step();
    return loss.template item<double>();
  };
  Net net;
  auto optimizer = make(net);
  // Of an optimizer that has made no step, the state is the one that it begins with.
  for (const int steps : {0, 3}) {
    for (int i = 0; i < steps; ++i) step(net, optimizer);
    for (const std::string path : {"training.safetensors", "training.weights.h5"}) {
      ckpt::Model model;
      ckpt::torch::add(model, net);
      ckpt::torch::add(model, optimizer);
      model.save(path);
      Net other;
      auto theirs = make(other);
      step(other, theirs);
      const ckpt::Reader reader(path);
      ckpt::torch::load(reader, other);
      ckpt::torch::load(reader, theirs);
      check(same_bits(net, other), name + ": loaded from " + path);
      for (int i = 0; i < 2; ++i) check(step(net, optimizer) == step(other, theirs), name + ": a step from " + path);
      check(same_bits(net, other), name + ": after steps from " + path);
    }
  }
}

// The options of a group, which can be other than a constructor takes.
template <typename Options>
Options& options_of(optim::Optimizer& optimizer, std::size_t group) {
  return static_cast<Options&>(optimizer.param_groups()[group].options());
}

// Two groups, with options of their own.
template <typename Options>
std::vector<optim::OptimizerParamGroup> groups(Net& net, Options first, Options second) {
  return {optim::OptimizerParamGroup(net.conv->parameters(), std::make_unique<Options>(first)),
          optim::OptimizerParamGroup(net.linear->parameters(), std::make_unique<Options>(second))};
}

struct MyAdam : optim::Adam {
  using optim::Adam::Adam;
};

}  // namespace

int main() {
  goes_on("SGD", [](Net& net) { return optim::SGD(net.parameters(), optim::SGDOptions(0.01)); });
  goes_on("SGD with momentum",
          [](Net& net) { return optim::SGD(net.parameters(), optim::SGDOptions(0.01).momentum(0.9).nesterov(true)); });
  goes_on("RMSprop", [](Net& net) { return optim::RMSprop(net.parameters(), optim::RMSpropOptions(0.01)); });
  goes_on("RMSprop, centered", [](Net& net) {
    return optim::RMSprop(net.parameters(), optim::RMSpropOptions(0.01).momentum(0.9).centered(true));
  });
  goes_on("Adam", [](Net& net) { return optim::Adam(net.parameters(), optim::AdamOptions(0.01)); });
  goes_on("Adam, amsgrad",
          [](Net& net) { return optim::Adam(net.parameters(), optim::AdamOptions(0.01).amsgrad(true)); });
  goes_on("AdamW", [](Net& net) { return optim::AdamW(net.parameters(), optim::AdamWOptions(0.01)); });

  goes_on("two groups of SGD, one with momentum", [](Net& net) {
    return optim::SGD(groups(net, optim::SGDOptions(0.1), optim::SGDOptions(0.01).momentum(0.9)),
                      optim::SGDOptions(0.5));
  });
  goes_on("two groups of Adam", [](Net& net) {
    return optim::Adam(groups(net, optim::AdamOptions(0.1), optim::AdamOptions(0.01).amsgrad(true)),
                       optim::AdamOptions(0.5));
  });
  goes_on("a part of the parameters",
          [](Net& net) { return optim::AdamW(net.linear->parameters(), optim::AdamWOptions(0.01)); });
  goes_on("frozen parameters", [](Net& net) {
    for (auto& parameter : net.conv->parameters()) parameter.requires_grad_(false);
    return optim::Adam(net.parameters(), optim::AdamOptions(0.01));
  });
  // What no constructor takes, and libtorch then makes of it: a negative momentum is one of SGD's, and none of
  // RMSprop's.
  goes_on("SGD with a negative momentum", [](Net& net) {
    optim::SGD optimizer(net.parameters(), optim::SGDOptions(0.01));
    options_of<optim::SGDOptions>(optimizer, 0).momentum(-0.5);
    return optimizer;
  });
  goes_on("RMSprop with a negative momentum", [](Net& net) {
    optim::RMSprop optimizer(net.parameters(), optim::RMSpropOptions(0.01));
    options_of<optim::RMSpropOptions>(optimizer, 0).momentum(-0.5);
    return optimizer;
  });

  Net net;
  ckpt::Model model;
  optim::Adagrad adagrad(net.parameters());
  refused(Status::Unsupported, {"Adagrad"}, [&] { ckpt::torch::add(model, adagrad); });
  MyAdam mine(net.parameters());
  refused(Status::Unsupported, {"MyAdam"}, [&] { ckpt::torch::add(model, mine); });
  optim::SGD dampened(net.parameters(), optim::SGDOptions(0.1).momentum(0.9).dampening(0.5));
  refused(Status::State, {"optimizer/state/0", "after its first step"}, [&] { ckpt::torch::add(model, dampened); });
  net.zero_grad();
  torch::mse_loss(net.forward(torch::randn({8, 1, 8, 8})), torch::zeros({8, 5})).backward();
  dampened.step();
  ckpt::torch::add(model, dampened);  // where nothing of it is yet
  model.save("dampened.weights.h5");
  Net other;
  optim::SGD fresh(other.parameters(), optim::SGDOptions(0.1).momentum(0.9).dampening(0.5));
  ckpt::Model of_net;
  ckpt::torch::add(of_net, net);
  of_net.save("module.weights.h5");
  refused(Status::Mismatch, {"optimizer/param_groups/0/lr"},
          [&] { ckpt::torch::load(ckpt::Reader("module.weights.h5"), fresh); });
  check(fresh.state().empty(), "a load that fails leaves an optimizer without a state as it was");
  ckpt::torch::load(ckpt::Reader("dampened.weights.h5"), fresh);  // what it begins with does not matter then
  // An option that comes after the first step finds no state, in libtorch neither.
  optim::Adam late(net.parameters(), optim::AdamOptions(0.01));
  late.step();  // with the gradients of before
  options_of<optim::AdamOptions>(late, 0).amsgrad(true);
  refused(Status::Unsupported, {"optimizer/state/0/max_exp_avg_sq", "undefined"}, [&] {
    ckpt::Model of_late;
    ckpt::torch::add(of_late, late);
  });
  // Of another number of parameters.
  optim::SGD fewer(other.linear->parameters(), optim::SGDOptions(0.1).momentum(0.9));
  refused(Status::Mismatch, {"optimizer/state/0/momentum_buffer", "[3, 5]", "[5, 144]"},
          [&] { ckpt::torch::load(ckpt::Reader("dampened.weights.h5"), fewer); });
  return failures == 0 ? 0 : 1;
}
