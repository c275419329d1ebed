// A training that goes on from a file in other objects takes the same steps, to the bit: of each optimizer, in two formats.
// What cannot be saved is refused with its name.

#include <ckpt_torch.hpp>

#include <iostream>

namespace nn = torch::nn;
namespace optim = torch::optim;

namespace {

int failures = 0;

void check(bool is_so, const std::string& what) {
  if (is_so) return;
  std::cerr << "failed: " << what << "\n";
  ++failures;
}

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

bool same(Net& a, Net& b) {
  bool same = true;
  for (std::size_t i = 0; i < a.parameters().size(); ++i) same = same && torch::equal(a.parameters()[i], b.parameters()[i]);
  for (std::size_t i = 0; i < a.buffers().size(); ++i) same = same && torch::equal(a.buffers()[i], b.buffers()[i]);
  return same;
}

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
      check(same(net, other), name + ": loaded from " + path);
      for (int i = 0; i < 2; ++i) check(step(net, optimizer) == step(other, theirs), name + ": a step from " + path);
      check(same(net, other), name + ": after steps from " + path);
    }
  }
}

template <typename Call>
void refused(libckpt::Status status, const std::string& text, Call call) {
  try {
    call();
    check(false, "not refused: " + text);
  } catch (const ckpt::Error& error) {
    check(error.status() == status && std::string(error.what()).find(text) != std::string::npos, error.what());
  }
}

void refuses(const std::string& text, nn::Sequential model, std::vector<std::int64_t> shape) {
  refused(libckpt::Status::Unsupported, text, [&] { ckpt::torch::to_keras(model, shape); });
}

}  // namespace

int main() {
  goes_on("SGD", [](Net& net) { return optim::SGD(net.parameters(), optim::SGDOptions(0.01)); });
  goes_on("SGD with momentum", [](Net& net) { return optim::SGD(net.parameters(), optim::SGDOptions(0.01).momentum(0.9).nesterov(true)); });
  goes_on("RMSprop", [](Net& net) { return optim::RMSprop(net.parameters(), optim::RMSpropOptions(0.01)); });
  goes_on("RMSprop, centered", [](Net& net) { return optim::RMSprop(net.parameters(), optim::RMSpropOptions(0.01).momentum(0.9).centered(true)); });
  goes_on("Adam", [](Net& net) { return optim::Adam(net.parameters(), optim::AdamOptions(0.01)); });
  goes_on("Adam, amsgrad", [](Net& net) { return optim::Adam(net.parameters(), optim::AdamOptions(0.01).amsgrad(true)); });
  goes_on("AdamW", [](Net& net) { return optim::AdamW(net.parameters(), optim::AdamWOptions(0.01)); });

  Net net;
  ckpt::Model model;
  optim::Adagrad adagrad(net.parameters());
  refused(libckpt::Status::Unsupported, "Adagrad", [&] { ckpt::torch::add(model, adagrad); });
  optim::SGD dampened(net.parameters(), optim::SGDOptions(0.1).momentum(0.9).dampening(0.5));
  refused(libckpt::Status::State, "after its first step", [&] { ckpt::torch::add(model, dampened); });
  net.zero_grad();
  torch::mse_loss(net.forward(torch::randn({8, 1, 8, 8})), torch::zeros({8, 5})).backward();
  dampened.step();
  ckpt::Model stepped;
  ckpt::torch::add(stepped, dampened);
  stepped.save("dampened.weights.h5");
  Net other;
  optim::SGD fresh(other.parameters(), optim::SGDOptions(0.1).momentum(0.9).dampening(0.5));
  ckpt::torch::load(ckpt::Reader("dampened.weights.h5"), fresh);  // what it begins with does not matter then
  nn::Linear complex(nn::LinearOptions(2, 2));
  complex->to(torch::kComplexFloat);
  refused(libckpt::Status::Unsupported, "'weight' is of a type", [&] { ckpt::torch::add(model, *complex); });
  nn::Linear larger(nn::LinearOptions(7, 5));
  refused(libckpt::Status::Mismatch, "weight", [&] { ckpt::torch::load(ckpt::Reader("training.weights.h5"), *larger); });

  refuses("'0', torch::nn::MaxPool2dImpl, is padded", nn::Sequential(nn::MaxPool2d(nn::MaxPool2dOptions(2).padding(1))), {2, 8, 8});
  refuses("'1', torch::nn::AvgPool2dImpl, has ceil_mode",
          nn::Sequential(nn::ReLU(), nn::AvgPool2d(nn::AvgPool2dOptions(3).ceil_mode(true))), {2, 8, 8});
  refuses("'0', torch::nn::PReLUImpl, has no counterpart", nn::Sequential(nn::PReLU()), {2});
  refuses("another threshold", nn::Sequential(nn::Softplus(nn::SoftplusOptions().threshold(1))), {2});
  refuses("a slope below 0", nn::Sequential(nn::LeakyReLU(nn::LeakyReLUOptions().negative_slope(-0.1))), {2});
  refuses("has strides and is dilated", nn::Sequential(nn::Conv2d(nn::Conv2dOptions(2, 2, 3).stride(2).dilation(2))), {2, 9, 9});
  refuses("ConvTranspose2d", nn::Sequential(nn::ConvTranspose2d(2, 2, 3)), {2, 8, 8});
  refuses("pads with something else", nn::Sequential(nn::Conv2d(nn::Conv2dOptions(2, 2, 3).padding(1).padding_mode(torch::kReflect))), {2, 8, 8});
  refuses("tracks no statistics", nn::Sequential(nn::BatchNorm2d(nn::BatchNorm2dOptions(2).track_running_stats(false))), {2, 8, 8});
  refuses("set batch_first", nn::Sequential(nn::LSTM(3, 2)), {5, 3});
  refuses("goes both ways", nn::Sequential(nn::GRU(nn::GRUOptions(3, 2).batch_first(true).bidirectional(true))), {5, 3});
  refuses("followed by TakeOutput or TakeLast", nn::Sequential(nn::LSTM(nn::LSTMOptions(3, 2).batch_first(true)), nn::Linear(2, 2)), {5, 3});
  refuses("flatten before it", nn::Sequential(nn::Conv2d(2, 2, 3), nn::Linear(6, 2)), {2, 8, 8});
  refuses("does not fit", nn::Sequential(nn::Linear(3, 2)), {4});
  return failures == 0 ? 0 : 1;
}
