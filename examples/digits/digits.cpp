// Trains a network on handwritten digits, and lets libckpt decide when to save it.
//
//   gzip -dc examples/data/digits.csv.gz | digits [--epochs N] [--every N] [--resume] [--weights-only]
//                                                 [--predictions FILE] [DIRECTORY]
//
// The data comes as CSV on standard input; the last 360 rows validate. The best checkpoints go to DIRECTORY, at first
// "checkpoints"; with --every one every N batches, made in the background, of which the last two and the best stay. With
// --resume the training goes on from the newest checkpoint there, as if it had not been interrupted. FILE gets the best
// one's name and its predictions, for check.py to compare with Keras'.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>

#include <ckpt.hpp>

#include "data.hpp"
#include "network.hpp"

namespace {

constexpr std::size_t validation_rows = 360;
constexpr std::size_t batch_size = 32;
static_assert(input_size == pixels_per_digit, "the network takes a digit as it comes");

struct Arguments {
  std::uint64_t epochs = 15;
  std::uint64_t every = 0;
  bool resume = false;
  bool weights_only = false;
  std::string predictions;
  std::string directory = "checkpoints";
};

// std::stoull alone would take -1 for a very large number.
std::uint64_t count(const std::string& option, const std::string& text) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos)
    throw std::invalid_argument(option + " takes a number, not '" + text + "'");
  return std::stoull(text);
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool has_value = i + 1 < argc;
    if (argument == "--weights-only") {
      arguments.weights_only = true;
    } else if (argument == "--resume") {
      arguments.resume = true;
    } else if (argument == "--epochs" && has_value) {
      arguments.epochs = count(argument, argv[++i]);
    } else if (argument == "--every" && has_value) {
      arguments.every = count(argument, argv[++i]);
    } else if (argument == "--predictions" && has_value) {
      arguments.predictions = argv[++i];
    } else if (argument.rfind("-", 0) != 0) {
      arguments.directory = argument;
    } else {
      throw std::invalid_argument("what is " + argument +
                                  "? Known: --epochs N, --every N, --resume, --weights-only, --predictions FILE");
    }
  }
  return arguments;
}

// Mean loss and accuracy, as the rows come in.
class Score {
 public:
  void add(const Probabilities& p, std::size_t label) {
    loss_ -= std::log(std::max(static_cast<double>(p[label]), 1e-7));
    right_ += std::max_element(p.begin(), p.end()) == p.begin() + static_cast<std::ptrdiff_t>(label) ? 1.0 : 0.0;
    rows_ += 1.0;
  }

  double loss() const { return loss_ / rows_; }
  double accuracy() const { return right_ / rows_; }

 private:
  double loss_ = 0.0, right_ = 0.0, rows_ = 0.0;
};

void train_batch(Network& network, const Digits& digits, const std::vector<std::size_t>& order, std::size_t begin,
                 Score& score) {
  const std::size_t end = std::min(begin + batch_size, order.size());
  for (std::size_t i = begin; i < end; ++i) {
    const std::size_t label = digits.labels[order[i]];
    score.add(network.learn(digits.row(order[i]), label, end - begin), label);
  }
  network.step();
}

// The trainer's own state, beside the network's: what the next rows are, and what this epoch has scored so far.
void put_state(libckpt::Session& session, const std::mt19937& random, const Score& score) {
  std::ostringstream text;
  text << random;
  session.set_state("random", text.str());
  session.set_state("score", {reinterpret_cast<const char*>(&score), sizeof score});
}

void get_state(const libckpt::Session& session, std::mt19937& random, Score& score) {
  std::istringstream(session.state("random").value()) >> random;
  const std::string bytes = session.state("score").value();
  if (bytes.size() != sizeof score) throw std::runtime_error("the checkpoint is of another version of this program");
  std::memcpy(&score, bytes.data(), sizeof score);
}

libckpt::Options options(const Arguments& arguments) {
  libckpt::Options options;
  options.save_weights_only(arguments.weights_only);
  options.verbose().log([](libckpt::LogLevel, const char* line) { std::printf("  %s\n", line); });
  if (arguments.every == 0) {
    options.monitor("val_loss").save_best_only();
  } else {
    options.monitor("loss").save_freq(arguments.every).keep_last(2).keep_best(1).async(libckpt::Async::Copy);
  }
  return options;
}

Score evaluate(const Network& network, const Digits& digits, std::size_t first_row) {
  Score score;
  for (std::size_t i = first_row; i < digits.size(); ++i) score.add(network.predict(digits.row(i)), digits.labels[i]);
  return score;
}

// The network as Keras has it, and where its variables and the optimizer's are.
libckpt::Model describe(Network& network) {
  libckpt::Keras keras;
  keras.add("InputLayer", R"({"shape": [64]})");
  const std::size_t dense = keras.add("Dense", R"({"units": 32, "activation": "relu"})");
  const std::size_t dense_1 = keras.add("Dense", R"({"units": 10, "activation": "softmax"})");
  keras.compile("Adam", R"({"learning_rate": 0.003, "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]})");
  keras.bind_optimizer("iteration", &network.iteration).bind_optimizer("learning_rate", &network.learning_rate);

  const auto bind = [&](std::size_t layer, const char* name, Variable& variable) {
    keras.bind(layer, name, variable.value)
        .bind_optimizer("momentum", layer, name, variable.momentum)
        .bind_optimizer("velocity", layer, name, variable.velocity);
  };
  bind(dense, "kernel", network.dense.kernel);
  bind(dense, "bias", network.dense.bias);
  bind(dense_1, "kernel", network.dense_1.kernel);
  bind(dense_1, "bias", network.dense_1.bias);
  return keras.model();
}

void write_predictions(const std::string& path, const std::string& checkpoint, const Network& network,
                       const Digits& digits, std::size_t first_row) {
  std::ofstream out(path);
  out.precision(9);  // enough for every float
  out << "# " << checkpoint << '\n';
  for (std::size_t i = first_row; i < digits.size(); ++i) {
    out << i;
    for (const float p : network.predict(digits.row(i))) out << ',' << p;
    out << '\n';
  }
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

void run(const Arguments& arguments) {
  const Digits digits = read_csv(std::cin);
  if (digits.size() <= validation_rows) throw std::runtime_error("standard input has too few rows of digits");
  const std::size_t training_rows = digits.size() - validation_rows;
  std::printf("%zu digits to learn from, %zu to validate with\n", training_rows, validation_rows);

  std::mt19937 random(20241);
  Network network(random);
  libckpt::Model model = describe(network);
  const char* const name = arguments.every == 0 ? "/{epoch:02d}-{val_loss:.3f}" : "/{epoch:02d}-{batch:03d}";
  libckpt::Session session(arguments.directory + name + (arguments.weights_only ? ".weights.h5" : ".keras"),
                           options(arguments));
  session.prepare(model);

  std::uint64_t epoch = 0, batch = 0;
  Score train;
  if (arguments.resume) {
    if (const auto from = session.resume(model)) {
      epoch = from->epoch;
      batch = from->batch;
      get_state(session, random, train);
      std::printf("Resumed from %s\n", from->path.c_str());
    }
  }
  for (; epoch < arguments.epochs; ++epoch) {
    if (batch == 0) train = Score();
    const std::mt19937 at_begin = random;
    const std::vector<std::size_t> order = shuffled(training_rows, random);
    for (; batch * batch_size < training_rows; ++batch) {
      train_batch(network, digits, order, batch * batch_size, train);
      if (arguments.every == 0) continue;
      session.on_train_batch_end(batch, {{"loss", train.loss()}});
      if (session.should_save()) {
        put_state(session, at_begin, train);
        session.save(model);
      }
    }
    batch = 0;
    const Score val = evaluate(network, digits, training_rows);
    std::printf("Epoch %2d/%d  loss %.4f  acc %.4f  val_loss %.4f  val_acc %.4f\n", static_cast<int>(epoch + 1),
                static_cast<int>(arguments.epochs), train.loss(), train.accuracy(), val.loss(), val.accuracy());
    session.on_epoch_end(epoch, {{"loss", train.loss()},
                                 {"acc", train.accuracy()},
                                 {"val_loss", val.loss()},
                                 {"val_acc", val.accuracy()}});
    if (session.should_save()) {
      put_state(session, random, train);
      session.save(model);
    }
    std::fflush(stdout);
  }

  session.wait();
  std::printf("At the end: val_loss %.17g\n", evaluate(network, digits, training_rows).loss());
  session.load_best(model);  // straight into the network's own vectors
  const std::string best = session.best_path().value();
  const Score val = evaluate(network, digits, training_rows);
  std::printf("The best is %s; loaded back: val_loss %.4f, val_acc %.4f\n", best.c_str(), val.loss(), val.accuracy());
  if (arguments.every == 0 && val.loss() != session.best()) throw std::runtime_error("that is not the val_loss it was saved with");
  if (!arguments.predictions.empty()) write_predictions(arguments.predictions, best, network, digits, training_rows);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "digits: %s\n", error.what());
    return 1;
  }
}
