/// @file
/// torch::nn::Sequential as a Keras model. See ckpt_torch.hpp.

#ifndef CKPT_TORCH_KERAS_HPP
#define CKPT_TORCH_KERAS_HPP

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <torch/torch.h>

#include "ckpt.hpp"
#include "ckpt_torch_recurrent.hpp"
#include "ckpt_torch_tensors.hpp"

namespace libckpt {

namespace detail {

/// A layer's arguments, as JSON.
class Arguments {
 public:
  template <typename T>
  Arguments& set(const char* name, const T& value) {
    text_ << (empty_ ? "" : ", ") << '"' << name << "\": ";
    empty_ = false;
    put(value);
    return *this;
  }
  std::string json() const { return "{" + text_.str() + "}"; }

 private:
  void put(bool value) { text_ << (value ? "true" : "false"); }
  void put(const char* value) { text_ << '"' << value << '"'; }
  void put(const std::string& value) { put(value.c_str()); }
  void put(std::int64_t value) { text_ << value; }
  void put(double value) {
    text_.precision(17);
    text_ << value;
  }
  void put(c10::IntArrayRef values) {
    text_ << '[';
    for (std::size_t i = 0; i < values.size(); ++i) text_ << (i > 0 ? ", " : "") << values[i];
    text_ << ']';
  }

  std::ostringstream text_;
  bool empty_ = true;
};

/// A Keras variable that is made of tensors, and made anew at each save: `join` makes it, `split` gives it back to them.
template <typename Join, typename Split>
void bind_made(Keras& keras, std::size_t layer, const char* name, Dtype dtype, Join join, Split split) {
  struct Made {
    at::Tensor bytes;
  };
  const auto saved = std::make_shared<Made>(), loaded = std::make_shared<Made>();
  const auto fetch = [saved, join](void* dst, std::uint64_t offset, std::uint64_t nbytes) {
    const at::NoGradGuard no_grad;
    if (offset == 0) saved->bytes = bytes_of(join().cpu());
    std::memcpy(dst, static_cast<const char*>(saved->bytes.data_ptr()) + offset, nbytes);
    if (offset + nbytes == static_cast<std::uint64_t>(saved->bytes.numel())) saved->bytes.reset();
  };
  const auto put = [loaded, join, split](const void* src, std::uint64_t offset, std::uint64_t nbytes) {
    const at::NoGradGuard no_grad;
    if (offset == 0) loaded->bytes = at::empty_like(join().cpu(), at::MemoryFormat::Contiguous);
    std::memcpy(static_cast<char*>(loaded->bytes.data_ptr()) + offset, src, nbytes);
    if (offset + nbytes == loaded->bytes.nbytes()) split(std::exchange(loaded->bytes, at::Tensor()));
  };
  keras.bind_source(layer, name, dtype, fetch, put);
}

/// A Sequential on its way to Keras, module by module.
class Translation {
 public:
  Translation(torch::nn::Sequential& sequential, const std::vector<std::int64_t>& input_shape) {
    for (const auto& child : sequential->named_children()) modules_.emplace_back(child.key(), child.value());
    begin(input_shape);
    for (at_ = 0; at_ < modules_.size(); ++at_) add(*modules_[at_].second);
  }

  Model model() const { return keras_.model(); }

 private:
  using Module = torch::nn::Module;

  /// The input, with the channels where Keras has them. Of two axes the first module that tells says which they are.
  void begin(const std::vector<std::int64_t>& shape) {
    rank_ = shape.size();
    channels_first_ = rank_ == 3;
    const char* dtype = "float32";
    for (const auto& [name, module] : modules_) {
      if (is_any<torch::nn::Conv1dImpl, torch::nn::BatchNorm1dImpl, torch::nn::MaxPool1dImpl, torch::nn::AvgPool1dImpl,
                 torch::nn::AdaptiveAvgPool1dImpl>(*module)) {
        channels_first_ = channels_first_ || rank_ == 2;
        break;
      }
      if (is_any<torch::nn::LSTMImpl, torch::nn::GRUImpl, torch::nn::LinearImpl, torch::nn::LayerNormImpl,
                 torch::nn::EmbeddingImpl, torch::nn::FlattenImpl, torch::nn::SoftmaxImpl, torch::nn::Conv2dImpl>(*module)) {
        if (is_any<torch::nn::EmbeddingImpl>(*module)) dtype = "int32";
        break;
      }
    }
    std::vector<std::int64_t> axes = shape;
    if (channels_first_) std::rotate(axes.begin(), axes.begin() + 1, axes.end());
    std::string text;
    for (const auto axis : axes) text += (text.empty() ? "" : ", ") + (axis < 0 ? "null" : std::to_string(axis));
    keras_.add("InputLayer", R"({"shape": [)" + text + R"(], "dtype": ")" + dtype + R"("})");
  }

  template <typename... Impls>
  static bool is_any(const Module& module) {
    return ((module.as<Impls>() != nullptr) || ...);
  }

  [[noreturn]] void refuse(const std::string& why) const {
    const auto& [name, module] = modules_[at_];
    throw Error(Status::Unsupported, "to_keras: module '" + name + "', " + module->name() + ", " + why);
  }
  void refuse_if(bool is_so, const char* why) const {
    if (is_so) refuse(why);
  }

  void add(Module& module) {
    namespace nn = torch::nn;
    if (auto* m = module.as<nn::LinearImpl>()) return add_linear(*m);
    if (auto* m = module.as<nn::Conv1dImpl>()) return add_convolution<1>(*m, m->options);
    if (auto* m = module.as<nn::Conv2dImpl>()) return add_convolution<2>(*m, m->options);
    if (auto* m = module.as<nn::BatchNorm1dImpl>()) return add_batch_norm(*m);
    if (auto* m = module.as<nn::BatchNorm2dImpl>()) return add_batch_norm(*m);
    if (auto* m = module.as<nn::LayerNormImpl>()) return add_layer_norm(*m);
    if (auto* m = module.as<nn::EmbeddingImpl>()) return add_embedding(*m);
    if (auto* m = module.as<nn::LSTMImpl>()) return add_recurrent(*m, "LSTM");
    if (auto* m = module.as<nn::GRUImpl>()) return add_recurrent(*m, "GRU");
    if (auto* m = module.as<nn::DropoutImpl>()) return plain("Dropout", Arguments().set("rate", m->options.p()));
    if (auto* m = module.as<nn::FlattenImpl>()) return add_flatten(*m);
    if (auto* m = module.as<nn::MaxPool1dImpl>()) return add_max_pool<1>(m->options);
    if (auto* m = module.as<nn::MaxPool2dImpl>()) return add_max_pool<2>(m->options);
    if (auto* m = module.as<nn::AvgPool1dImpl>()) return add_pool<1>("AveragePooling1D", m->options);
    if (auto* m = module.as<nn::AvgPool2dImpl>()) {
      refuse_if(m->options.divisor_override().has_value(), "divides by another number than Keras");
      return add_pool<2>("AveragePooling2D", m->options);
    }
    if (auto* m = module.as<nn::AdaptiveAvgPool1dImpl>()) return add_global_pool<1>(*m);
    if (auto* m = module.as<nn::AdaptiveAvgPool2dImpl>()) return add_global_pool<2>(*m);
    if (is_any<nn::IdentityImpl>(module)) return;
    if (is_any<TakeOutputImpl, TakeLastImpl>(module)) {
      refuse_if(at_ == 0 || !is_any<nn::LSTMImpl, nn::GRUImpl>(*modules_[at_ - 1].second), "stands behind no LSTM or GRU");
      return;
    }
    add_activation(module);
  }

  void plain(const char* name, const Arguments& arguments) { keras_.add(name, arguments.json()); }

  void add_activation(Module& module) {
    namespace nn = torch::nn;
    const auto activation = [&](const char* name) { plain("Activation", Arguments().set("activation", name)); };
    if (is_any<nn::ReLUImpl>(module)) return plain("ReLU", Arguments());
    if (is_any<nn::ReLU6Impl>(module)) return plain("ReLU", Arguments().set("max_value", 6.0));
    if (auto* m = module.as<nn::LeakyReLUImpl>()) {
      refuse_if(m->options.negative_slope() < 0, "has a slope below 0");
      return plain("ReLU", Arguments().set("negative_slope", m->options.negative_slope()));
    }
    if (is_any<nn::SigmoidImpl>(module)) return activation("sigmoid");
    if (is_any<nn::TanhImpl>(module)) return activation("tanh");
    if (auto* m = module.as<nn::GELUImpl>()) {
      refuse_if(m->options.approximate() != "none", "approximates: Keras' is exact");
      return activation("gelu");
    }
    if (is_any<nn::SiLUImpl>(module)) return activation("silu");
    if (is_any<nn::MishImpl>(module)) return activation("mish");
    if (auto* m = module.as<nn::ELUImpl>()) {
      refuse_if(m->options.alpha() != 1.0, "has an alpha that is not 1");
      return activation("elu");
    }
    if (auto* m = module.as<nn::CELUImpl>()) {
      refuse_if(m->options.alpha() != 1.0, "has an alpha that is not 1");
      return activation("celu");
    }
    if (is_any<nn::SELUImpl>(module)) return activation("selu");
    if (auto* m = module.as<nn::SoftplusImpl>()) {
      refuse_if(m->options.beta() != 1.0 || m->options.threshold() != 20.0, "has a beta that is not 1, or another threshold");
      return activation("softplus");
    }
    if (is_any<nn::SoftsignImpl>(module)) return activation("softsign");
    if (is_any<nn::LogSigmoidImpl>(module)) return activation("log_sigmoid");
    if (is_any<nn::TanhshrinkImpl>(module)) return activation("tanh_shrink");
    if (auto* m = module.as<nn::SoftmaxImpl>()) return plain("Softmax", Arguments().set("axis", keras_axis(m->options.dim())));
    if (auto* m = module.as<nn::LogSoftmaxImpl>()) {
      refuse_if(keras_axis(m->options.dim()) != static_cast<std::int64_t>(rank_), "is along an axis that is not Keras' last");
      return activation("log_softmax");
    }
    refuse("has no counterpart");
  }

  /// An axis of libtorch's, counted with the batch, as Keras counts it.
  std::int64_t keras_axis(std::int64_t axis) const {
    const auto rank = static_cast<std::int64_t>(rank_);
    if (axis < 0) axis += rank + 1;
    if (axis < 1 || axis > rank) refuse("is along the batch, or an axis that is not there");
    if (!channels_first_) return axis;
    return axis == 1 ? rank : axis - 1;
  }

  static const char* policy(const at::Tensor& tensor) {
    switch (tensor.scalar_type()) {
      case at::kDouble: return "float64";
      case at::kHalf: return "float16";
      case at::kBFloat16: return "bfloat16";
      default: return "float32";
    }
  }

  /// A view of a tensor with the axes of a Keras variable.
  void bind(std::size_t layer, const char* name, const at::Tensor& view) {
    check_is_dense(view, name);
    const auto shape = keras_.variable(layer, name).shape;
    if (view.sizes() != c10::IntArrayRef(shape)) refuse(std::string("does not fit what comes before it: its ") + name);
    if (is_in_host_memory(view)) {
      keras_.bind(layer, name, dtype_of(view, name), view.data_ptr(), shape_of(view.strides()));
    } else {
      keras_.bind_source(layer, name, dtype_of(view, name), fetch_of(view), put_of(view));
    }
  }

  void add_linear(torch::nn::LinearImpl& m) {
    refuse_if(channels_first_, "works on the last axis, which is none of Keras' channels: flatten before it");
    const auto layer = keras_.add("Dense", Arguments().set("units", m.options.out_features())
                                               .set("use_bias", m.bias.defined()).set("dtype", policy(m.weight)).json());
    bind(layer, "kernel", m.weight.t());
    if (m.bias.defined()) bind(layer, "bias", m.bias);
  }

  template <std::size_t N, typename Impl, typename Options>
  void add_convolution(Impl& m, const Options& options) {
    check_channels(N);
    refuse_if(options.padding_mode().index() != 0, "pads with something else than zeros");
    const std::array<std::int64_t, N> size = *options.kernel_size(), stride = *options.stride(), dilation = *options.dilation();
    const auto is_more = [](std::int64_t n) { return n > 1; };
    refuse_if(std::any_of(stride.begin(), stride.end(), is_more) && std::any_of(dilation.begin(), dilation.end(), is_more),
              "has strides and is dilated");
    using std::get_if;  // or c10's, of libtorch 1
    const auto& given = options.padding();
    std::string padding = "valid";
    if (const auto* pads = get_if<torch::ExpandingArray<N>>(&given)) {
      bool same = true, any = false;
      for (std::size_t i = 0; i < N; ++i) {
        const std::int64_t pad = (**pads)[i];
        same = same && stride[i] == 1 && 2 * pad == dilation[i] * (size[i] - 1);
        any = any || pad > 0;
      }
      if (same) {
        padding = "same";
      } else if (any) {
        pad<N>(**pads);
      }
    } else if (get_if<torch::enumtype::kSame>(&given) != nullptr) {
      padding = "same";
    }
    const auto layer = keras_.add(
        N == 1 ? "Conv1D" : "Conv2D",
        Arguments().set("filters", options.out_channels()).set("kernel_size", size).set("strides", stride)
            .set("padding", padding).set("dilation_rate", dilation).set("groups", options.groups())
            .set("use_bias", m.bias.defined()).set("dtype", policy(m.weight)).json());
    if constexpr (N == 1) {
      bind(layer, "kernel", m.weight.permute({2, 1, 0}));
    } else {
      bind(layer, "kernel", m.weight.permute({2, 3, 1, 0}));
    }
    if (m.bias.defined()) bind(layer, "bias", m.bias);
  }

  /// Zeros on both sides of each axis, which Keras' layers have only where the output stays as large.
  template <std::size_t N>
  void pad(const std::array<std::int64_t, N>& pads) {
    if constexpr (N == 1) {
      plain("ZeroPadding1D", Arguments().set("padding", pads[0]));
    } else {
      plain("ZeroPadding2D", Arguments().set("padding", pads));
    }
  }

  void check_channels(std::size_t axes) const {
    if (!channels_first_ || rank_ != axes + 1) refuse("does not come where there are channels and " + std::to_string(axes) + " axes");
  }

  template <typename Impl>
  void add_batch_norm(Impl& m) {
    const auto& options = m.options;
    refuse_if(!channels_first_ && rank_ != 1, "is along an axis that is not Keras' last");
    refuse_if(!options.track_running_stats(), "tracks no statistics");
    refuse_if(!options.momentum().has_value(), "averages over all batches");
    const bool affine = options.affine();
    const auto layer = keras_.add("BatchNormalization",
                                  Arguments().set("epsilon", options.eps()).set("momentum", 1.0 - *options.momentum())
                                      .set("center", affine).set("scale", affine).set("dtype", policy(m.running_mean)).json());
    if (affine) {
      bind(layer, "gamma", m.weight);
      bind(layer, "beta", m.bias);
    }
    bind(layer, "moving_mean", m.running_mean);
    bind(layer, "moving_variance", m.running_var);
  }

  void add_layer_norm(torch::nn::LayerNormImpl& m) {
    const auto n = m.options.normalized_shape().size();
    refuse_if(n > rank_, "is over more axes than there are");
    const bool affine = m.options.elementwise_affine();
    // The last axes of libtorch's; where these have the channels among them, Keras has them last.
    const bool all = channels_first_ && n == rank_;
    std::vector<std::int64_t> axes;
    for (std::size_t i = 0; i < n; ++i) {
      const auto axis = static_cast<std::int64_t>(rank_ - n + i + 1);
      axes.push_back(channels_first_ && !all ? axis - 1 : axis);
    }
    const auto layer = keras_.add("LayerNormalization",
                                  Arguments().set("axis", axes).set("epsilon", m.options.eps()).set("center", affine)
                                      .set("scale", affine).set("dtype", affine ? policy(m.weight) : "float32").json());
    if (!affine) return;
    std::vector<std::int64_t> order;
    for (std::size_t i = 0; i < n; ++i) order.push_back(static_cast<std::int64_t>(all ? (i + 1) % n : i));
    bind(layer, "gamma", m.weight.permute(order));
    bind(layer, "beta", m.bias.permute(order));
  }

  void add_embedding(torch::nn::EmbeddingImpl& m) {
    refuse_if(channels_first_, "does not come where there are channels");
    refuse_if(m.options.max_norm().has_value(), "renormalizes");
    const auto layer = keras_.add("Embedding", Arguments().set("input_dim", m.options.num_embeddings())
                                                   .set("output_dim", m.options.embedding_dim()).set("dtype", policy(m.weight)).json());
    bind(layer, "embeddings", m.weight);
    ++rank_;
  }

  template <typename Impl>
  void add_recurrent(Impl& m, const char* name) {
    const auto& options = m.options;
    refuse_if(channels_first_ || rank_ != 2, "takes steps of features");
    refuse_if(!options.batch_first(), "has the batch behind the steps: set batch_first");
    refuse_if(options.bidirectional(), "goes both ways");
    if constexpr (std::is_same_v<Impl, torch::nn::LSTMImpl>) refuse_if(options.proj_size() > 0, "projects");
    const bool last_module = at_ + 1 == modules_.size();
    const Module* next = last_module ? nullptr : modules_[at_ + 1].second.get();
    const bool takes_last = next != nullptr && is_any<TakeLastImpl>(*next);
    refuse_if(next != nullptr && !takes_last && !is_any<TakeOutputImpl>(*next), "is to be followed by TakeOutput or TakeLast");
    const auto parameters = m.named_parameters();
    for (std::int64_t number = 0; number < options.num_layers(); ++number) {
      const bool last = number + 1 == options.num_layers();
      const auto of = [&](const char* what) { return parameters[what + ("_l" + std::to_string(number))]; };
      const at::Tensor w_ih = of("weight_ih"), w_hh = of("weight_hh");
      const auto layer = keras_.add(name, Arguments().set("units", options.hidden_size()).set("use_bias", options.bias())
                                              .set("return_sequences", !last || !takes_last).set("dtype", policy(w_ih)).json());
      const at::Tensor none;
      const at::Tensor b_ih = options.bias() ? of("bias_ih") : none, b_hh = options.bias() ? of("bias_hh") : none;
      if constexpr (std::is_same_v<Impl, torch::nn::LSTMImpl>) {
        bind_lstm(layer, w_ih, w_hh, b_ih, b_hh);
      } else {
        bind_gru(layer, w_ih, w_hh, b_ih, b_hh);
      }
      if (!last && options.dropout() > 0) plain("Dropout", Arguments().set("rate", options.dropout()));
    }
    if (takes_last) rank_ = 1;
  }

  /// The gates are in the same order; of the two biases Keras has the sum.
  void bind_lstm(std::size_t layer, const at::Tensor& w_ih, const at::Tensor& w_hh, const at::Tensor& b_ih, const at::Tensor& b_hh) {
    bind(layer, "kernel", w_ih.t());
    bind(layer, "recurrent_kernel", w_hh.t());
    if (!b_ih.defined()) return;
    bind_made(keras_, layer, "bias", dtype_of(b_ih, "bias"), [b_ih, b_hh] { return b_ih.detach() + b_hh.detach(); },
              [b_ih, b_hh](const at::Tensor& sum) {
                b_ih.detach().copy_(sum);
                b_hh.detach().zero_();
              });
  }

  /// Keras has the update gate before the reset gate.
  void bind_gru(std::size_t layer, const at::Tensor& w_ih, const at::Tensor& w_hh, const at::Tensor& b_ih, const at::Tensor& b_hh) {
    const auto swapped = [](const at::Tensor& gates) {
      const auto parts = gates.detach().chunk(3, 0);
      return at::cat({parts[1], parts[0], parts[2]}, 0);
    };
    const auto kernel = [&](const char* name, const at::Tensor& w) {
      bind_made(keras_, layer, name, dtype_of(w, name), [w, swapped] { return swapped(w).t(); },
                [w, swapped](const at::Tensor& kernel) { w.detach().copy_(swapped(kernel.t())); });
    };
    kernel("kernel", w_ih);
    kernel("recurrent_kernel", w_hh);
    if (!b_ih.defined()) return;
    bind_made(keras_, layer, "bias", dtype_of(b_ih, "bias"),
              [b_ih, b_hh, swapped] { return at::stack({swapped(b_ih), swapped(b_hh)}); },
              [b_ih, b_hh, swapped](const at::Tensor& both) {
                b_ih.detach().copy_(swapped(both[0]));
                b_hh.detach().copy_(swapped(both[1]));
              });
  }

  void add_flatten(torch::nn::FlattenImpl& m) {
    const auto end = m.options.end_dim();
    refuse_if(m.options.start_dim() != 1 || (end != -1 && end != static_cast<std::int64_t>(rank_)), "leaves axes as they are");
    // In the order in which libtorch has them.
    if (channels_first_ && rank_ > 1) {
      std::vector<std::int64_t> order{static_cast<std::int64_t>(rank_)};
      for (std::size_t i = 1; i < rank_; ++i) order.push_back(static_cast<std::int64_t>(i));
      plain("Permute", Arguments().set("dims", order));
    }
    plain("Flatten", Arguments());
    channels_first_ = false;
    rank_ = 1;
  }

  template <std::size_t N, typename Options>
  void add_max_pool(const Options& options) {
    for (const auto n : *options.dilation()) refuse_if(n != 1, "is dilated");
    add_pool<N>(N == 1 ? "MaxPooling1D" : "MaxPooling2D", options);
  }

  template <std::size_t N, typename Options>
  void add_pool(const char* name, const Options& options) {
    check_channels(N);
    for (const auto n : *options.padding()) refuse_if(n != 0, "is padded: Keras' pooling does not pad like that");
    refuse_if(options.ceil_mode(), "has ceil_mode: Keras leaves out what is no whole window");
    const std::array<std::int64_t, N> size = *options.kernel_size(), stride = *options.stride();
    plain(name, Arguments().set("pool_size", size).set("strides", stride));
  }

  template <std::size_t N, typename Impl>
  void add_global_pool(Impl& m) {
    check_channels(N);
    for (const auto& n : *m.options.output_size()) refuse_if(output_size(n) != 1, "gives more than one element");
    plain(N == 1 ? "GlobalAveragePooling1D" : "GlobalAveragePooling2D", Arguments().set("keepdims", true));
  }
  static std::int64_t output_size(std::int64_t n) { return n; }
  static std::int64_t output_size(const at::optional<std::int64_t>& n) { return n.value_or(-1); }

  Keras keras_;
  std::vector<std::pair<std::string, std::shared_ptr<Module>>> modules_;
  /// The module that is being added.
  std::size_t at_ = 0;
  /// The axes of what comes out so far, without that of the batch, and whether libtorch has the channels first of them,
  /// and Keras last.
  std::size_t rank_ = 0;
  bool channels_first_ = false;
};

}  // namespace detail
}  // namespace libckpt

#endif  // CKPT_TORCH_KERAS_HPP
