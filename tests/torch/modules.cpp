// Modules in checkpoints and on their way to Keras, as somebody who wants to break it would have them: odd tensors,
// memory that is replaced, classes of one's own, and what does not fit.

#include "check.hpp"

#include <locale>

namespace nn = torch::nn;
using libckpt::Status;

namespace {

// Of each instance other values.
struct Odd : nn::Module {
  Odd() {
    const auto parameter = [this](const char* name, at::Tensor value) {
      return register_parameter(name, std::move(value), value.is_floating_point());
    };
    const auto tied = parameter("tied", torch::randn({2, 3}));
    register_parameter("same", tied);
    parameter("transposed", torch::randn({4, 3}).t());
    parameter("sliced", torch::randn({8, 6}).slice(0, 1, 8, 2).slice(1, 5));
    parameter("channels_last", torch::randn({2, 3, 4, 5}).contiguous(at::MemoryFormat::ChannelsLast));
    parameter("scalar", torch::randn({}));
    parameter("empty", torch::zeros({0, 3}));
    parameter("a/b", torch::randn({2}));
    register_parameter("none", at::Tensor(), false);
    register_buffer("nothing", at::Tensor());
    for (const auto type :
         {at::kHalf, at::kBFloat16, at::kDouble, at::kChar, at::kByte, at::kShort, at::kInt, at::kLong, at::kBool}) {
      register_buffer(std::string("of_") + c10::toString(type), torch::randint(0, 2, {3, 5}).to(type));
    }
    nn::Sequential at = register_module("deep", nn::Sequential());
    for (int depth = 0; depth < 20; ++depth) {
      at->push_back("linear", nn::Linear(nn::LinearOptions(2, 2).bias(depth % 2 == 0)));
      at = at->register_module("deep", nn::Sequential());
    }
  }
};

void comes_back() {
  for (const std::string path : {"odd.safetensors", "odd.weights.h5"}) {
    Odd odd, other;
    ckpt::Model model;
    ckpt::torch::add(model, odd);
    model.save(path);
    check(!same_bits(odd, other), "two odd modules differ");
    ckpt::torch::load(ckpt::Reader(path), other);
    check(same_bits(odd, other), "an odd module comes back from " + path);
  }
}

template <typename Module, typename... Texts>
void add_refused(Module& module, Status status, Texts... texts) {
  refused(status, {texts...}, [&] {
    ckpt::Model model;
    ckpt::torch::add(model, module);
  });
}

void refuses_tensors() {
  const auto with_buffer = [](const char* name, const at::Tensor& tensor) {
    nn::Identity module;
    module->register_buffer(name, tensor);
    return module;
  };
  add_refused(*with_buffer("c", torch::zeros({2}, at::kComplexFloat)), Status::Unsupported, "'c' is of a type",
              "ComplexFloat");
  add_refused(*with_buffer("q", torch::quantize_per_tensor(torch::zeros({2}), 0.1, 0, at::kQInt8)), Status::Unsupported,
              "'q'", "QInt8");
  add_refused(*with_buffer("s", torch::zeros({2}).to_sparse()), Status::Unsupported, "'s'", "sparse");
  add_refused(*with_buffer("m", torch::zeros({2}, at::kMeta)), Status::Unsupported, "'m'", "meta");
  nn::Identity both;
  both->register_parameter("a", torch::zeros({2}));
  both->register_parameter("a/b", torch::zeros({2}));
  add_refused(*both, Status::InvalidArgument, "'a/b' needs 'a' as a group");

  // Elements that share memory can be saved; what would be loaded into them is not known.
  auto expanded = with_buffer("e", torch::ones({1, 3}).expand({2, 3}));
  ckpt::Model model;
  ckpt::torch::add(model, *expanded);
  model.save("expanded.safetensors");
  refused(Status::Unsupported, {"'e'", "share memory"},
          [&] { ckpt::torch::load(ckpt::Reader("expanded.safetensors"), *expanded); });
}

void refuses_files() {
  nn::Linear saved(3, 2), wider(4, 2), of_doubles(3, 2);
  of_doubles->to(at::kDouble);
  ckpt::Model model;
  ckpt::torch::add(model, *saved);
  model.save("linear.safetensors");
  const ckpt::Reader reader("linear.safetensors");
  const auto load = [&](nn::Module& module) { return [&] { ckpt::torch::load(reader, module); }; };
  refused(Status::Mismatch, {"'weight'", "[2, 3]", "[2, 4]"}, load(*wider));
  refused(Status::Mismatch, {"'weight'", "float32", "float64"}, load(*of_doubles));
  // What is registered later is in a model that is made later.
  saved->register_parameter("later", torch::zeros({1}));
  model.save("linear.safetensors");
  check(!ckpt::Reader("linear.safetensors").find("later"), "a model is of the parameters that there were");
  refused(Status::Mismatch, {"'later'"}, load(*saved));
}

// Memory that a tensor no longer has stays, with what was in it, as long as the model.
void keeps_memory() {
  constexpr std::int64_t n = 1000;
  const at::NoGradGuard no_grad;
  nn::Sequential net(nn::Linear(n, 4), nn::LSTM(nn::LSTMOptions(4, 4).batch_first(true)));
  const at::Tensor before = net[0]->as<nn::Linear>()->weight.clone(),
                   biases = net[1]->as<nn::LSTM>()->named_parameters()["bias_ih_l0"] +
                            net[1]->as<nn::LSTM>()->named_parameters()["bias_hh_l0"];
  ckpt::Model model, keras = ckpt::torch::to_keras(net, {3, n});
  ckpt::torch::add(model, *net);
  net->to(at::kDouble);
  for (auto& parameter : net->parameters()) parameter.set_data(torch::zeros({1}));
  std::vector<at::Tensor> others;  // where the memory would be, had it been freed
  for (int i = 0; i < 100; ++i) others.push_back(torch::full({4, n}, 7.0));
  model.save("kept.safetensors");
  keras.save("kept.keras");
  const auto in_file = [](const char* path, const char* name) {
    return torch::tensor(ckpt::Reader(path).read<float>(name));
  };
  check(same_bits(in_file("kept.safetensors", "0.weight").view({4, n}), before), "memory is kept for a module");
  check(same_bits(in_file("kept.keras", "layers/dense/vars/0").view({n, 4}).t(), before), "memory is kept for Keras");
  check(same_bits(in_file("kept.keras", "layers/lstm/cell/vars/2"), biases), "memory is kept for what is made");
}

// The outputs of the same module, and the file of another, at a place with another decimal point.
void speaks_json_everywhere() {
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const auto was = std::locale::global(std::locale(std::locale::classic(), new Comma));
  ckpt::torch::to_keras(
      nn::Sequential(nn::Linear(2000, 1000), nn::LeakyReLU(nn::LeakyReLUOptions().negative_slope(0.25))), {2000})
      .save("comma.keras");
  std::locale::global(was);
}

struct MyLinearImpl : nn::LinearImpl {
  using nn::LinearImpl::LinearImpl;
  at::Tensor forward(const at::Tensor& x) { return 2 * nn::LinearImpl::forward(x); }
};
TORCH_MODULE(MyLinear);

struct ResidualImpl : nn::SequentialImpl {
  using nn::SequentialImpl::SequentialImpl;
  at::Tensor forward(at::Tensor x) { return x + nn::SequentialImpl::forward(x); }
};
TORCH_MODULE(Residual);

using Shape = std::vector<std::int64_t>;

// No counterpart in Keras.
template <typename... Texts>
void refuses(nn::Sequential model, Shape shape, Texts... texts) {
  refused(Status::Unsupported, {"to_keras: ", texts...}, [&] { ckpt::torch::to_keras(model, shape); });
}

// Neither libtorch nor Keras computes anything.
template <typename... Texts>
void misfits(nn::Sequential model, Shape shape, Texts... texts) {
  refused(Status::InvalidArgument, {"to_keras: ", texts...}, [&] { ckpt::torch::to_keras(model, shape); });
  auto batch = shape;
  batch.insert(batch.begin(), 2);
  try {
    model->eval();
    model->forward(torch::zeros(batch));
    check(false, "libtorch computes: " + std::string(std::get<0>(std::make_tuple(texts...))));
  } catch (const std::exception&) {
  }
}

void refuses_modules() {
  refuses(nn::Sequential(nn::MaxPool2d(nn::MaxPool2dOptions(2).padding(1))), {2, 8, 8},
          "module '0' (number 0, torch::nn::MaxPool2dImpl): is padded");
  refuses(nn::Sequential(nn::AvgPool1d(nn::AvgPool1dOptions(2).padding(1))), {2, 8}, "AvgPool1dImpl", "is padded");
  refuses(nn::Sequential(nn::ReLU(), nn::AvgPool2d(nn::AvgPool2dOptions(3).ceil_mode(true))), {2, 8, 8},
          "module '1' (number 1, torch::nn::AvgPool2dImpl): has ceil_mode");
  refuses(nn::Sequential(nn::AvgPool2d(nn::AvgPool2dOptions(2).divisor_override(3))), {2, 8, 8},
          "divides by another number");
  refuses(nn::Sequential(nn::MaxPool2d(nn::MaxPool2dOptions(2).dilation(2))), {2, 8, 8}, "is dilated");
  refuses(nn::Sequential(nn::AdaptiveAvgPool2d(2)), {2, 8, 8}, "gives more than one element");
  refuses(nn::Sequential{nn::PReLU()}, {2}, "torch::nn::PReLUImpl): has no counterpart");
  refuses(nn::Sequential(nn::ConvTranspose2d(2, 2, 3)), {2, 8, 8}, "ConvTranspose2dImpl): has no counterpart");
  refuses(nn::Sequential(nn::Softplus(nn::SoftplusOptions().threshold(1))), {2}, "another threshold");
  refuses(nn::Sequential(nn::ELU(nn::ELUOptions().alpha(2))), {2}, "ELUImpl", "an alpha that is not 1");
  refuses(nn::Sequential(nn::CELU(nn::CELUOptions().alpha(2))), {2}, "CELUImpl", "an alpha that is not 1");
  refuses(nn::Sequential(nn::GELU(nn::GELUOptions().approximate("tanh"))), {2}, "approximates");
  refuses(nn::Sequential(nn::LeakyReLU(nn::LeakyReLUOptions().negative_slope(-0.1))), {2}, "a slope below 0");
  refuses(nn::Sequential(nn::Softmax(0)), {2}, "along the batch");
  refuses(nn::Sequential(nn::LogSoftmax(2)), {2, 8, 8}, "an axis that is not Keras' last");
  refuses(nn::Sequential(nn::Conv2d(nn::Conv2dOptions(2, 2, 3).stride(2).dilation(2))), {2, 9, 9},
          "has strides and is dilated");
  refuses(nn::Sequential(nn::Conv2d(nn::Conv2dOptions(2, 2, 3).padding(1).padding_mode(torch::kReflect))), {2, 8, 8},
          "pads with something else");
  refuses(nn::Sequential(nn::BatchNorm2d(nn::BatchNorm2dOptions(2).track_running_stats(false))), {2, 8, 8},
          "tracks no statistics");
  refuses(nn::Sequential(nn::BatchNorm2d(nn::BatchNorm2dOptions(2).momentum(at::nullopt))), {2, 8, 8},
          "averages over all batches");
  refuses(nn::Sequential(nn::Linear(3, 4), nn::BatchNorm1d(5)), {5, 3}, "BatchNorm1dImpl",
          "an axis that is not Keras' last");
  refuses(nn::Sequential(nn::Embedding(nn::EmbeddingOptions(3, 4).max_norm(1))), {5}, "renormalizes");
  refuses(nn::Sequential(nn::LSTM(3, 2)), {5, 3}, "set batch_first");
  refuses(nn::Sequential(nn::LSTM(nn::LSTMOptions(3, 2).batch_first(true).proj_size(1))), {5, 3}, "projects");
  refuses(nn::Sequential(nn::GRU(nn::GRUOptions(3, 2).batch_first(true).bidirectional(true))), {5, 3},
          "goes both ways");
  refuses(nn::Sequential(nn::LSTM(nn::LSTMOptions(3, 2).batch_first(true)), nn::Linear(2, 2)), {5, 3},
          "followed by TakeOutput or TakeLast");
  refuses(nn::Sequential(nn::Conv2d(2, 2, 3), nn::Linear(6, 2)), {2, 8, 8}, "flatten before it");
  refuses(nn::Sequential(nn::Flatten(nn::FlattenOptions().start_dim(2))), {2, 8, 8}, "leaves axes as they are");
  refuses(nn::Sequential(nn::Flatten(nn::FlattenOptions().start_dim(0))), {2, 8, 8}, "takes the batch");
  // Whatever they are derived from.
  refuses(nn::Sequential(nn::ReLU(), MyLinear(3, 3)), {3}, "module '1' (number 1, ",
          "MyLinearImpl): has no counterpart");
  refuses(nn::Sequential(Residual(nn::Linear(3, 3))), {3}, "ResidualImpl", "derived from Sequential");
  refuses(nn::Sequential(std::static_pointer_cast<nn::SequentialImpl>(Residual(nn::Linear(3, 3)).ptr())), {3},
          "ResidualImpl", "derived from Sequential");
  // The name is the Sequential's, and of those in it.
  nn::Sequential named({{"body", ckpt::torch::Stack(nn::ReLU(), nn::Softmin(1))}});
  refuses(named, {3}, "module 'body.1' (number 1, torch::nn::SoftminImpl)");
}

void refuses_what_does_not_fit() {
  nn::Sequential named;
  named->push_back("conv1", nn::Conv2d(1, 2, 3));
  named->push_back("conv2", nn::Conv2d(2, 2, 5));
  misfits(named, {1, 6, 6}, "module 'conv2' (number 1, torch::nn::Conv2dImpl)", "does not fit");
  misfits(nn::Sequential(nn::Linear(3, 2)), {4}, "LinearImpl", "does not fit what comes before it", "[3, 2]", "[4, 2]");
  misfits(nn::Sequential(nn::Conv2d(3, 4, 3)), {2, 8, 8}, "Conv2dImpl", "does not fit");
  misfits(nn::Sequential(nn::Conv2d(nn::Conv2dOptions(4, 4, 3).groups(2))), {6, 8, 8}, "Conv2dImpl", "does not fit");
  misfits(nn::Sequential(nn::Conv2d(nn::Conv2dOptions(2, 2, 3).padding(-1))), {2, 8, 8}, "Conv2dImpl",
          "pads by less than 0");
  misfits(nn::Sequential(nn::Conv1d(2, 2, 3)), {2, 8, 8}, "Conv1dImpl", "takes channels and 1 axes", "[2, 8, 8]");
  misfits(nn::Sequential(nn::MaxPool2d(9)), {2, 8, 8}, "MaxPool2dImpl", "does not fit");
  misfits(nn::Sequential(nn::BatchNorm1d(2)), {2, 8, 8}, "takes (features) or (C, L)");
  misfits(nn::Sequential(nn::BatchNorm2d(2)), {2}, "takes (C, H, W)");
  misfits(nn::Sequential(nn::BatchNorm1d(nn::BatchNorm1dOptions(3).affine(false))), {4}, "BatchNorm1dImpl",
          "does not fit");
  for (const bool affine : {false, true}) {
    const auto norm = [&](Shape shape) {
      return nn::LayerNorm(nn::LayerNormOptions(shape).elementwise_affine(affine));
    };
    misfits(nn::Sequential(norm({4})), {5}, "LayerNormImpl): is for [4]", "[5]");
    misfits(nn::Sequential(norm({8, 2})), {2, 8}, "is for [8, 2]", "[2, 8]");
    misfits(nn::Sequential(norm({5, 5})), {5}, "is for [5, 5]", "[5]");
    misfits(nn::Sequential(nn::Conv2d(1, 2, 3), nn::MaxPool2d(2), norm({2, 2})), {1, 8, 8}, "is for [2, 2]",
            "[2, 3, 3]");
  }
  for (const bool biased : {false, true}) {
    misfits(nn::Sequential(nn::GRU(nn::GRUOptions(3, 2).batch_first(true).bias(biased)), ckpt::torch::TakeLast()),
            {5, 4}, "GRUImpl", "weight_ih", "[5, 4]");
    misfits(nn::Sequential(nn::LSTM(nn::LSTMOptions(3, 2).batch_first(true).bias(biased)), ckpt::torch::TakeLast()),
            {5, 4}, "LSTMImpl", "[5, 4]");
  }
  misfits(nn::Sequential(nn::GRU(nn::GRUOptions(3, 2).batch_first(true)), ckpt::torch::TakeLast()), {2, 5, 3},
          "takes steps of features");
  misfits(nn::Sequential(nn::ReLU(), ckpt::torch::TakeLast()), {5, 3}, "stands behind no LSTM");
  misfits(nn::Sequential(nn::Linear(3, 3), nn::Embedding(3, 4)), {3}, "EmbeddingImpl): takes integers");
  misfits(nn::Sequential(nn::Softmax(2)), {3}, "an axis that is not there");
  misfits(nn::Sequential{nn::Flatten()}, {}, "has nothing to flatten");
  misfits(nn::Sequential(), {3}, "has no modules");
  for (const Shape& shape : {Shape{0}, Shape{-2}}) {
    refused(Status::InvalidArgument, {"the input's shape", "or -1"},
            [&] { ckpt::torch::to_keras(nn::Sequential{nn::ReLU()}, shape); });
  }
  refused(Status::InvalidArgument, {"null"}, [] { ckpt::torch::to_keras(nn::Sequential(nullptr), {3}); });
}

// What test_torch.py looks at in Keras: a layer that is not trained, one that is there twice, any number of steps.
void goes_to_keras() {
  nn::Linear twice(3, 3);
  nn::Sequential net(nn::Linear(3, 3), twice, nn::ReLU(), twice,
                     nn::LayerNorm(nn::LayerNormOptions({3}).elementwise_affine(false)));
  for (auto& parameter : net[0]->parameters()) parameter.requires_grad_(false);
  const auto x = torch::randn({2, 7, 3});
  net->train();
  ckpt::torch::to_keras(net, {-1, 3}).save("frozen.keras");
  ckpt::Model data;
  const at::Tensor y = net->forward(x).detach();
  libckpt::detail::add_tensor(data, "x", x);
  libckpt::detail::add_tensor(data, "y", y);
  data.save("frozen.safetensors");
}

}  // namespace

int main() {
  comes_back();
  refuses_tensors();
  refuses_files();
  keeps_memory();
  speaks_json_everywhere();
  refuses_modules();
  refuses_what_does_not_fit();
  goes_to_keras();
  return failures == 0 ? 0 : 1;
}
