// Random Sequential models as Keras models, with inputs and libtorch's outputs: sequential SEED COUNT DIRECTORY.
//
// For each there are N.keras, N.safetensors with x and y, and its text in models.txt; in modules.txt are the classes of the
// modules that there were. Nothing may be copied but what is made for recurrent modules: what to_keras and the save allocate
// is counted. And what was saved is loaded back, to the bit.

#include <ckpt_torch.hpp>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <random>
#include <set>

namespace nn = torch::nn;

namespace {

std::atomic<std::size_t> allocated{0};

class Maker {
 public:
  explicit Maker(unsigned seed) : random_(seed) {}

  // A model of a kind, by its number; its input's shape.
  nn::Sequential make(int kind, std::vector<std::int64_t>& shape) {
    nn::Sequential model;
    switch (kind) {
      case 0: image(model, shape); break;
      case 1: signal(model, shape); break;
      case 2:
      case 3: steps(model, shape, kind == 3); break;
      default:
        shape = {below(6) + 2};
        flat(model, shape[0]);
    }
    return model;
  }

  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_() % static_cast<std::uint32_t>(n)); }
  bool maybe() { return below(2) == 0; }

 private:
  // Each in its turn, so that all of them come up.
  void activation(nn::Sequential& model, bool channels_first = false) {
    const auto last = channels_first ? 1 : -1;  // Keras' last
    const std::function<void()> all[] = {
        [&] { model->push_back(nn::ReLU()); },
        [&] { model->push_back(nn::LeakyReLU(nn::LeakyReLUOptions().negative_slope(0.2))); },
        [&] { model->push_back(nn::ReLU6()); },
        [&] { model->push_back(nn::Sigmoid()); },
        [&] { model->push_back(nn::Tanh()); },
        [&] { model->push_back(nn::GELU()); },
        [&] { model->push_back(nn::SiLU()); },
        [&] { model->push_back(nn::Mish()); },
        [&] { model->push_back(nn::ELU()); },
        [&] { model->push_back(nn::CELU()); },
        [&] { model->push_back(nn::SELU()); },
        [&] { model->push_back(nn::Softplus()); },
        [&] { model->push_back(nn::Softsign()); },
        [&] { model->push_back(nn::LogSigmoid()); },
        [&] { model->push_back(nn::Tanhshrink()); },
        [&] { model->push_back(nn::Softmax(maybe() ? 1 : -1)); },
        [&] { model->push_back(nn::LogSoftmax(last)); },
        [&] { model->push_back(nn::Identity()); },
        [&] { model->push_back(nn::Dropout(0.3)); },
        [&] { model->push_back(ckpt::torch::Stack(nn::Tanh(), ckpt::torch::Stack(nn::Identity(), nn::ELU()))); },
    };
    all[turn_++ % std::size(all)]();
  }

  void flatten(nn::Sequential& model, std::int64_t rank) {
    model->push_back(nn::Flatten(nn::FlattenOptions().start_dim(maybe() ? 1 : -rank).end_dim(maybe() ? -1 : rank)));
  }

  void flat(nn::Sequential& model, std::int64_t features) {
    for (auto n = below(3) + 1; n > 0; --n) {
      const auto units = below(6) + 2;
      model->push_back(nn::Linear(nn::LinearOptions(features, units).bias(maybe())));
      features = units;
      if (maybe()) model->push_back(nn::BatchNorm1d(nn::BatchNorm1dOptions(features).eps(1e-4).momentum(0.2)));
      if (maybe()) model->push_back(nn::LayerNorm(nn::LayerNormOptions({features}).elementwise_affine(maybe())));
      activation(model);
    }
    if (maybe()) model->push_back(nn::Softmax(maybe() ? 1 : -1));
  }

  void image(nn::Sequential& model, std::vector<std::int64_t>& shape) {
    std::int64_t c = 2 * below(3) + 2, h = below(5) + 9, w = below(5) + 9;
    shape = {c, h, w};
    for (auto n = below(3) + 1; n > 0; --n) {
      const auto filters = 2 * below(3) + 2, kh = below(3) + 1, kw = below(3) + 1;
      nn::Conv2dOptions options(c, filters, {kh, kw});
      options.bias(maybe()).groups(maybe() ? 2 : 1);
      if (maybe()) options.padding({below(2), below(2)});
      if (maybe()) options.stride({below(2) + 1, below(2) + 1});
      else if (maybe()) options.dilation({below(2) + 1, below(2) + 1});
      if (below(4) == 0) options = nn::Conv2dOptions(c, filters, {kh, kw}).padding(torch::kSame).dilation(below(2) + 1);
      nn::Conv2d conv(options);
      model->push_back(conv);
      const auto out = conv(torch::zeros({1, c, h, w}));
      c = out.size(1), h = out.size(2), w = out.size(3);
      if (maybe()) model->push_back(nn::BatchNorm2d(nn::BatchNorm2dOptions(c).affine(maybe())));
      if (maybe()) {
        const std::vector<std::int64_t> all{c, h, w};
        const auto from = all.begin() + below(3);
        model->push_back(nn::LayerNorm(nn::LayerNormOptions(std::vector<std::int64_t>(from, all.end()))));
      }
      activation(model, true);
      if (h > 3 && w > 3 && maybe()) {
        if (maybe()) model->push_back(nn::MaxPool2d(nn::MaxPool2dOptions({2, 3}).stride({2, 1})));
        else model->push_back(nn::AvgPool2d(nn::AvgPool2dOptions(2)));
        const auto pooled = model->forward(torch::zeros({2, shape[0], shape[1], shape[2]}));
        h = pooled.size(2), w = pooled.size(3);
      }
    }
    if (below(4) == 0) return;
    if (maybe()) {
      model->push_back(nn::AdaptiveAvgPool2d(1));
      h = w = 1;
    }
    flatten(model, 3);
    flat(model, c * h * w);
  }

  void signal(nn::Sequential& model, std::vector<std::int64_t>& shape) {
    std::int64_t c = 2 * below(3) + 2, l = below(9) + 14;
    shape = {c, l};
    for (auto n = below(3) + 1; n > 0; --n) {
      const auto filters = 2 * below(3) + 2;
      nn::Conv1dOptions options(c, filters, below(4) + 1);
      options.bias(maybe()).padding(below(3)).groups(maybe() ? 2 : 1);
      if (maybe()) options.stride(2);
      nn::Conv1d conv(options);
      model->push_back(conv);
      const auto out = conv(torch::zeros({1, c, l}));
      c = out.size(1), l = out.size(2);
      if (maybe()) model->push_back(nn::BatchNorm1d(c));
      activation(model, true);
      if (l > 5 && maybe()) {
        if (maybe()) model->push_back(nn::MaxPool1d(2));
        else model->push_back(nn::AvgPool1d(nn::AvgPool1dOptions(3).stride(2)));
        l = model->forward(torch::zeros({2, shape[0], shape[1]})).size(2);
      }
    }
    if (below(4) == 0) return;
    if (maybe()) {
      model->push_back(nn::AdaptiveAvgPool1d(1));
      l = 1;
    }
    flatten(model, 2);
    flat(model, c * l);
  }

  void steps(nn::Sequential& model, std::vector<std::int64_t>& shape, bool embeds) {
    std::int64_t d = below(5) + 2;
    shape = {below(5) + 3, d};
    if (embeds) {
      shape.pop_back();
      model->push_back(nn::Embedding(11, d));
    }
    for (auto n = below(3) + 1; n > 0; --n) {
      if (maybe()) {
        const auto units = below(5) + 2;
        model->push_back(nn::Linear(d, units));
        activation(model);
        d = units;
      }
      if (maybe()) model->push_back(nn::LayerNorm(nn::LayerNormOptions({d})));
      const auto units = below(5) + 2, layers = below(2) + 1;
      if (maybe()) {
        model->push_back(nn::LSTM(nn::LSTMOptions(d, units).batch_first(true).num_layers(layers).bias(maybe())));
      } else {
        model->push_back(nn::GRU(nn::GRUOptions(d, units).batch_first(true).num_layers(layers).bias(maybe())));
      }
      d = units;
      if (n == 1 && maybe()) {
        if (maybe()) return;
        model->push_back(ckpt::torch::TakeLast());
        flat(model, d);
        return;
      }
      model->push_back(ckpt::torch::TakeOutput());
    }
  }

  std::mt19937 random_;
  std::size_t turn_ = 0;
};

at::Tensor outputs(nn::Sequential& model, at::Tensor x) {
  const auto& last = *(model->end() - 1);
  if (last.ptr()->as<nn::LSTMImpl>() != nullptr) {
    return std::get<0>(model->forward<std::tuple<at::Tensor, std::tuple<at::Tensor, at::Tensor>>>(x));
  }
  if (last.ptr()->as<nn::GRUImpl>() != nullptr) return std::get<0>(model->forward<std::tuple<at::Tensor, at::Tensor>>(x));
  return model->forward(x);
}

std::vector<at::Tensor> values(nn::Sequential& model) {
  std::vector<at::Tensor> all;
  for (const auto& tensor : model->parameters()) all.push_back(tensor.detach().clone());
  for (const auto& tensor : model->buffers()) all.push_back(tensor.detach().clone());
  return all;
}

// What the norms begin with would be right in any order.
template <typename Norm>
void stir(nn::Module& module) {
  auto* norm = module.as<Norm>();
  if (norm == nullptr || !norm->weight.defined()) return;
  norm->weight.uniform_(0.5, 1.5);
  norm->bias.uniform_(-0.5, 0.5);
}

void run(Maker& maker, int number, std::set<std::string>& classes, const std::string& directory) {
  std::vector<std::int64_t> shape;
  nn::Sequential model = maker.make(number % 5, shape);
  const at::NoGradGuard no_grad;
  for (const auto& module : model->modules(false)) {
    classes.insert(c10::demangle(typeid(*module).name()));
    stir<nn::BatchNorm1dImpl>(*module);
    stir<nn::BatchNorm2dImpl>(*module);
    stir<nn::LayerNormImpl>(*module);
  }
  for (const auto& buffer : model->buffers()) {
    if (buffer.is_floating_point()) buffer.uniform_(0.5, 1.5);
  }
  const auto type = number % 6 == 5 ? at::kDouble : at::kFloat;
  model->to(type);
  model->eval();
  std::vector<std::int64_t> batch = shape;
  batch.insert(batch.begin(), 3);
  const bool embeds = model->begin()->ptr()->as<nn::EmbeddingImpl>() != nullptr;
  const at::Tensor x = embeds ? torch::randint(0, 11, batch, at::kInt) : torch::randn(batch, type);
  const at::Tensor y = outputs(model, x).contiguous();

  const std::string path = directory + "/" + std::to_string(number);
  ckpt::Model keras = ckpt::torch::to_keras(model, shape);
  keras.save(path + ".keras");
  ckpt::Model data;
  libckpt::detail::add_tensor(data, "x", x);
  libckpt::detail::add_tensor(data, "y", y);
  data.save(path + ".safetensors");
  std::ofstream(directory + "/models.txt", std::ios::app) << number << ": " << c10::str(*model) << "\n";

  // Back: the same outputs; but for an LSTM's biases, of which Keras has the sum, the same bits.
  const auto before = values(model);
  for (const auto& tensor : model->parameters()) tensor.zero_();
  ckpt::Reader reader(path + ".keras");
  reader.load(keras);
  const auto after = values(model);
  bool same = torch::allclose(outputs(model, x), y, 1e-5, 1e-6);
  std::size_t i = 0;
  for (const auto& item : model->named_parameters()) {
    same = same && (item.key().find("bias_") != std::string::npos || torch::equal(before[i], after[i]));
    ++i;
  }
  if (!same) throw std::runtime_error("model " + std::to_string(number) + " is another one when it is loaded back");
}

// What to_keras and a save allocate does not grow with the model.
void count_allocations(const std::string& directory) {
  const auto cost = [&](std::int64_t features) {
    nn::Sequential model(nn::Conv2d(nn::Conv2dOptions(1, features, 3).padding(1)), nn::BatchNorm2d(features), nn::ReLU(),
                         nn::Flatten(), nn::Linear(features * 64, features));
    const std::size_t before = allocated;
    ckpt::torch::to_keras(model, {1, 8, 8}).save(directory + "/large.keras");
    return allocated - before;
  };
  const std::size_t small = cost(4), large = cost(256);
  std::cout << "allocated: " << small << " bytes for a small model, " << large << " for one of 16 MiB\n";
  if (large > small + 4096) throw std::runtime_error("tensors were copied");
}

}  // namespace

// Everybody's memory comes through here: the library's, libtorch's, and the C++ library's.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) { return allocated += size, __libc_malloc(size); }
void* calloc(std::size_t n, std::size_t size) { return allocated += n * size, __libc_calloc(n, size); }
void* realloc(void* memory, std::size_t size) { return allocated += size, __libc_realloc(memory, size); }
void* aligned_alloc(std::size_t alignment, std::size_t size) { return allocated += size, __libc_memalign(alignment, size); }
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) {
  allocated += size;
  *memory = __libc_memalign(alignment, size);
  return *memory != nullptr ? 0 : 12;
}
}

int main(int argc, char** argv) {
  try {
    if (argc != 4) throw std::runtime_error("usage: sequential SEED COUNT DIRECTORY");
    const auto seed = std::stoul(argv[1]);
    torch::manual_seed(seed);
    Maker maker(static_cast<unsigned>(seed));
    std::set<std::string> classes;
    for (int number = 0; number < std::stoi(argv[2]); ++number) run(maker, number, classes, argv[3]);
    std::ofstream list(std::string(argv[3]) + "/modules.txt");
    for (const auto& name : classes) list << name << "\n";
    count_allocations(argv[3]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
