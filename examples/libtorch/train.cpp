// Trains a convolutional network on handwritten digits with libtorch; libckpt decides when to save it, goes on from the
// newest checkpoint, and hands the best one to Keras.
//
//   gzip -dc digits.csv.gz | train [DIRECTORY]
//
// In DIRECTORY ("checkpoints") are the best checkpoints with the optimizer's state, and at the end digits.keras, a Keras
// model that predicts the same, with what libtorch predicts of the last 360 digits beside it, in predictions.csv.

#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

#include <ckpt_torch.hpp>

namespace nn = torch::nn;

namespace {

constexpr std::int64_t validation = 360, batch_size = 32;
constexpr std::uint64_t epochs = 10;

struct Digits {
  at::Tensor pixels;  // (N, 1, 8, 8), from 0 to 1
  at::Tensor labels;
};

Digits read_csv(std::istream& in) {
  std::vector<float> pixels;
  std::vector<std::int64_t> labels;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::vector<float> numbers;
    for (std::string field; std::getline(fields, field, ',');) numbers.push_back(std::stof(field));
    if (numbers.size() != 65) throw std::runtime_error("a row is not 64 pixels and a digit");
    labels.push_back(static_cast<std::int64_t>(numbers.back()));
    for (std::size_t i = 0; i < 64; ++i) pixels.push_back(numbers[i] / 16.0f);
  }
  const auto n = static_cast<std::int64_t>(labels.size());
  if (n <= validation) throw std::runtime_error("standard input has too few rows of digits");
  return {torch::tensor(pixels).reshape({n, 1, 8, 8}), torch::tensor(labels)};
}

nn::Sequential network() {
  return nn::Sequential(nn::Conv2d(nn::Conv2dOptions(1, 16, 3).padding(1)), nn::BatchNorm2d(16), nn::ReLU(), nn::MaxPool2d(2),
                        nn::Conv2d(nn::Conv2dOptions(16, 32, 3).padding(1)), nn::ReLU(), nn::Flatten(), nn::Dropout(0.3),
                        nn::Linear(32 * 4 * 4, 10));
}

void run(const std::string& directory) {
  const Digits digits = read_csv(std::cin);
  const auto learns = digits.labels.size(0) - validation;
  const auto x_val = digits.pixels.narrow(0, learns, validation), y_val = digits.labels.narrow(0, learns, validation);

  torch::manual_seed(7);
  nn::Sequential net = network();
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(1e-3));
  ckpt::Model model;
  ckpt::torch::add(model, *net);
  ckpt::torch::add(model, optimizer);

  ckpt::Session session(directory + "/{epoch:02d}-{val_loss:.3f}.weights.h5",
                        ckpt::Options().monitor("val_loss").save_best_only().save_weights_only().verbose());
  const auto from = session.resume(model);
  for (std::uint64_t epoch = from ? from->epoch : 0; epoch < epochs; ++epoch) {
    torch::manual_seed(epoch);  // so that an epoch is the same in a training that goes on
    net->train();
    const auto order = torch::randperm(learns);
    double loss_sum = 0;
    for (std::int64_t begin = 0; begin < learns; begin += batch_size) {
      const auto rows = order.slice(0, begin, begin + batch_size);
      optimizer.zero_grad();
      const auto loss = torch::cross_entropy_loss(net->forward(digits.pixels.index_select(0, rows)), digits.labels.index_select(0, rows));
      loss.backward();
      optimizer.step();
      loss_sum += loss.item<double>() * static_cast<double>(rows.size(0));
    }
    net->eval();
    const torch::NoGradGuard no_grad;
    const auto out = net->forward(x_val);
    const double loss = loss_sum / static_cast<double>(learns), val_loss = torch::cross_entropy_loss(out, y_val).item<double>();
    const double val_acc = out.argmax(1).eq(y_val).to(torch::kDouble).mean().item<double>();
    std::printf("Epoch %d/%d  loss %.4f  val_loss %.4f  val_acc %.4f\n", static_cast<int>(epoch + 1),
                static_cast<int>(epochs), loss, val_loss, val_acc);
    session.on_epoch_end(epoch, {{"loss", loss}, {"val_loss", val_loss}, {"val_acc", val_acc}});
    if (session.should_save()) session.save(model);
  }

  session.load_best(model);
  net->push_back(nn::Softmax(-1));  // the loss had it
  net->eval();
  ckpt::torch::to_keras(net, {1, 8, 8}).save(directory + "/digits.keras");
  const torch::NoGradGuard no_grad;
  const auto out = net->forward(x_val).contiguous();
  std::ofstream csv(directory + "/predictions.csv");
  csv.precision(9);
  for (std::int64_t i = 0; i < validation; ++i) {
    for (std::int64_t c = 0; c < 10; ++c) csv << out[i][c].item<float>() << (c < 9 ? ',' : '\n');
  }
  if (!csv.flush()) throw std::runtime_error("cannot write " + directory + "/predictions.csv");
  std::printf("%s/digits.keras knows %.1f%% of %d digits\n", directory.c_str(),
              100 * out.argmax(1).eq(y_val).to(torch::kDouble).mean().item<double>(), static_cast<int>(validation));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 1 ? argv[1] : "checkpoints");
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
