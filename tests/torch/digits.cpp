// The example's Keras model in libtorch again: digits BEST.weights.h5 digits.keras.
//
// Loaded from either file, modules are the same to the bit, and so they are after the next step of training.

#include "check.hpp"

namespace nn = torch::nn;

namespace {

// As examples/libtorch has it.
nn::Sequential network() {
  return nn::Sequential(nn::Conv2d(nn::Conv2dOptions(1, 16, 3).padding(1)), nn::BatchNorm2d(16), nn::ReLU(),
                        nn::MaxPool2d(2), nn::Conv2d(nn::Conv2dOptions(16, 32, 3).padding(1)), nn::ReLU(),
                        nn::Flatten(), nn::Dropout(0.3), nn::Linear(32 * 4 * 4, 10), nn::Softmax(-1));
}

torch::optim::Adam optimizer_of(nn::Sequential& net) {
  return torch::optim::Adam(net->parameters(), torch::optim::AdamOptions(1e-3));
}

// Of the same data each, and the same Dropout.
void step(nn::Sequential& net, torch::optim::Adam& optimizer) {
  torch::manual_seed(3);
  net->train();
  optimizer.zero_grad();
  const auto x = torch::rand({32, 1, 8, 8}), y = torch::randint(0, 10, {32}, at::kLong);
  torch::nll_loss(torch::log(net->forward(x)), y).backward();
  optimizer.step();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const ckpt::Reader best(argv[1]), keras(argv[2]);
  nn::Sequential trained = network(), loaded = network();
  ckpt::torch::load(best, *trained);
  check(!same_bits(*trained, *loaded), "what was trained is another one");
  ckpt::Model model = ckpt::torch::to_keras(loaded, {1, 8, 8});
  keras.load(model);
  // Keras does not count the batches of BatchNorm; with a momentum, libtorch does not use the number.
  loaded[1]->as<nn::BatchNorm2d>()->num_batches_tracked.copy_(trained[1]->as<nn::BatchNorm2d>()->num_batches_tracked);
  check(same_bits(*trained, *loaded), "the modules are the same");

  auto theirs = optimizer_of(trained), ours = optimizer_of(loaded);
  ckpt::torch::load(best, theirs);
  ckpt::torch::load(best, ours);
  const auto before = loaded->parameters()[0].detach().clone();
  step(trained, theirs);
  step(loaded, ours);
  check(same_bits(*trained, *loaded), "the modules are the same after a step");
  check(!same_bits(before, loaded->parameters()[0]), "a step changes them");
  return failures == 0 ? 0 : 1;
}
