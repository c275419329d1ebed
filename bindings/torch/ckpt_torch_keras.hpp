/// @file
/// torch::nn::Sequential as a Keras model. See ckpt_torch.hpp.

#ifndef CKPT_TORCH_KERAS_HPP
#define CKPT_TORCH_KERAS_HPP

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <type_traits>
#include <typeindex>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

#include <torch/torch.h>

#include "ckpt.hpp"
#include "ckpt_torch_layers.hpp"
#include "ckpt_torch_modules.hpp"
#include "ckpt_torch_recurrent.hpp"
#include "ckpt_torch_tensors.hpp"

namespace libckpt::detail {

/// A Sequential on its way to Keras, module by module.
class Translation {
 public:
  Translation(torch::nn::SequentialImpl& sequential, const std::vector<std::int64_t>& input_shape)
      : steps_(steps_of(sequential, "")), shape_(input_shape), layers_(type_of(sequential)) {
    if (steps_.empty()) throw Error(Status::InvalidArgument, "to_keras: the Sequential has no modules");
    add_input();
    for (at_ = 0; at_ < steps_.size(); ++at_) {
      const auto& step = steps_[at_];
      try {
        add(*step.module);
      } catch (const Error& error) {
        throw Error(error.status(), "to_keras: " + step.text() + ": " + error.what());
      } catch (const c10::Error& error) {
        throw Error(Status::InvalidArgument, "to_keras: " + step.text() + ": " + error.what_without_backtrace());
      }
    }
  }

  Model model() const { return layers_.model(); }

 private:
  using Module = torch::nn::Module;

  /// A module in the order in which they are called, those of Stacks among the others.
  struct Step {
    std::string name;
    std::size_t number;
    std::shared_ptr<Module> module;
    const torch::nn::SequentialImpl* in;

    std::string text() const {
      return "module '" + name + "' (number " + std::to_string(number) + ", " + c10::demangle(typeid(*module).name()) +
             ")";
    }
  };

  static std::vector<Step> steps_of(torch::nn::SequentialImpl& sequential, const std::string& prefix) {
    std::vector<Step> steps;
    const auto children = sequential.named_children();
    std::size_t number = 0;
    for (auto& any : sequential) {
      const auto module = any.ptr();
      // What is called is what was pushed back; its name is the child's, unless replace_module() has put another there.
      const auto child = number < children.size() ? children[number] : children.back();
      const auto name = prefix + (child.value() == module ? child.key() : std::to_string(number));
      if (is_any<StackImpl>(*module)) {
        const auto inner = steps_of(dynamic_cast<StackImpl&>(*module), name + ".");
        steps.insert(steps.end(), inner.begin(), inner.end());
      } else {
        steps.push_back({name, number, module, &sequential});
      }
      ++number;
    }
    return steps;
  }

  /// What the modules compute in, by the first tensor that tells.
  static at::ScalarType type_of(const torch::nn::SequentialImpl& sequential) {
    for (const auto& tensors : {sequential.parameters(), sequential.buffers()}) {
      for (const auto& tensor : tensors) {
        if (tensor.is_floating_point()) return tensor.scalar_type();
      }
    }
    return at::kFloat;
  }

  /// Whether a module is of one of these classes; one that is derived from them may compute something else.
  template <typename... Impls>
  static bool is_any(const Module& module) {
    return ((typeid(module) == typeid(Impls)) || ...);
  }
  template <typename Impl>
  static Impl* as(Module& module) {
    return is_any<Impl>(module) ? module.as<Impl>() : nullptr;
  }

  [[noreturn]] static void refuse(const std::string& why) { throw Error(Status::Unsupported, why); }
  static void refuse_if(bool is_so, const char* why) {
    if (is_so) refuse(why);
  }
  /// Where libtorch would not compute anything either.
  void require(bool is_so, const std::string& why) const {
    if (!is_so) {
      throw Error(Status::InvalidArgument,
                  why + ": what comes before it is of the shape " + c10::str(c10::IntArrayRef(shape_)));
    }
  }

  /// The input, with the channels where Keras has them. Of two axes the first module that tells says which they are.
  void add_input() {
    namespace nn = torch::nn;
    for (const auto axis : shape_) {
      if (axis != -1 && axis < 1) {
        throw Error(Status::InvalidArgument, "to_keras: the input's shape is " + c10::str(c10::IntArrayRef(shape_)) +
                                                 ": axes are 1 or more, or -1 where any size will do");
      }
    }
    channels_first_ = rank() == 3;
    for (const auto& step : steps_) {
      if (is_any<nn::Conv1dImpl, nn::BatchNorm1dImpl, nn::MaxPool1dImpl, nn::AvgPool1dImpl, nn::AdaptiveAvgPool1dImpl>(
              *step.module)) {
        channels_first_ = channels_first_ || rank() == 2;
        break;
      }
      if (is_any<nn::EmbeddingImpl>(*step.module)) channels_first_ = false;
      if (is_any<nn::LSTMImpl, nn::GRUImpl, nn::LinearImpl, nn::EmbeddingImpl, nn::FlattenImpl>(*step.module)) break;
    }
    const auto moves = [](const Step& step) { return is_any<nn::IdentityImpl, nn::FlattenImpl>(*step.module); };
    const auto computes = std::find_if_not(steps_.begin(), steps_.end(), moves);
    integers_ = computes != steps_.end() && is_any<nn::EmbeddingImpl>(*computes->module);
    std::vector<std::int64_t> axes = shape_;
    if (channels_first_) std::rotate(axes.begin(), axes.begin() + 1, axes.end());
    layers_.add_input(axes, integers_);
  }

  void add(Module& module) {
    namespace nn = torch::nn;
    const auto parameters = module.parameters();
    const auto trains = [](const at::Tensor& parameter) { return parameter.requires_grad(); };
    layers_.set_trains(parameters.empty() || std::any_of(parameters.begin(), parameters.end(), trains));
    if (auto* m = as<nn::LinearImpl>(module)) return add_linear(*m);
    if (auto* m = as<nn::Conv1dImpl>(module)) return add_convolution<1>(*m);
    if (auto* m = as<nn::Conv2dImpl>(module)) return add_convolution<2>(*m);
    if (auto* m = as<nn::BatchNorm1dImpl>(module)) {
      return add_batch_norm(*m, rank() == 1 || rank() == 2, "takes (features) or (C, L)");
    }
    if (auto* m = as<nn::BatchNorm2dImpl>(module)) return add_batch_norm(*m, rank() == 3, "takes (C, H, W)");
    if (auto* m = as<nn::LayerNormImpl>(module)) return add_layer_norm(*m);
    if (auto* m = as<nn::EmbeddingImpl>(module)) return add_embedding(*m);
    if (auto* m = as<nn::LSTMImpl>(module)) return add_recurrent(*m, "LSTM", 4);
    if (auto* m = as<nn::GRUImpl>(module)) return add_recurrent(*m, "GRU", 3);
    if (auto* m = as<nn::FlattenImpl>(module)) return add_flatten(*m);
    if (auto* m = as<nn::MaxPool1dImpl>(module)) return add_max_pool<1>(m->options);
    if (auto* m = as<nn::MaxPool2dImpl>(module)) return add_max_pool<2>(m->options);
    if (auto* m = as<nn::AvgPool1dImpl>(module)) return add_pool<1>("AveragePooling1D", m->options);
    if (auto* m = as<nn::AvgPool2dImpl>(module)) {
      refuse_if(m->options.divisor_override().has_value(), "divides by another number than Keras");
      return add_pool<2>("AveragePooling2D", m->options);
    }
    if (auto* m = as<nn::AdaptiveAvgPool1dImpl>(module)) return add_global_pool<1>(*m);
    if (auto* m = as<nn::AdaptiveAvgPool2dImpl>(module)) return add_global_pool<2>(*m);
    if (is_any<nn::IdentityImpl>(module)) return;
    if (is_any<TakeOutputImpl, TakeLastImpl>(module)) {
      const bool stands = at_ > 0 && is_any<nn::LSTMImpl, nn::GRUImpl>(*steps_[at_ - 1].module);
      return require(stands, "stands behind no LSTM or GRU");
    }
    refuse_if(dynamic_cast<nn::SequentialImpl*>(&module) != nullptr,
              "is derived from Sequential: of those in another, ckpt::torch::Stack is known");
    add_elementwise(module);
  }

  std::size_t add_elementwise(Module& module) {
    namespace nn = torch::nn;
    static const std::pair<std::type_index, const char*> activations[] = {
        {typeid(nn::SigmoidImpl), "sigmoid"},
        {typeid(nn::TanhImpl), "tanh"},
        {typeid(nn::GELUImpl), "gelu"},
        {typeid(nn::SiLUImpl), "silu"},
        {typeid(nn::MishImpl), "mish"},
        {typeid(nn::ELUImpl), "elu"},
        {typeid(nn::CELUImpl), "celu"},
        {typeid(nn::SELUImpl), "selu"},
        {typeid(nn::SoftplusImpl), "softplus"},
        {typeid(nn::SoftsignImpl), "softsign"},
        {typeid(nn::LogSigmoidImpl), "log_sigmoid"},
        {typeid(nn::TanhshrinkImpl), "tanh_shrink"},
        {typeid(nn::LogSoftmaxImpl), "log_softmax"},
    };
    if (auto* m = as<nn::DropoutImpl>(module)) return layers_.add("Dropout", Arguments().set("rate", m->options.p()));
    if (is_any<nn::ReLUImpl>(module)) return layers_.add("ReLU");
    if (is_any<nn::ReLU6Impl>(module)) return layers_.add("ReLU", Arguments().set("max_value", 6.0));
    if (auto* m = as<nn::LeakyReLUImpl>(module)) {
      refuse_if(m->options.negative_slope() < 0, "has a slope below 0");
      return layers_.add("ReLU", Arguments().set("negative_slope", m->options.negative_slope()));
    }
    if (auto* m = as<nn::SoftmaxImpl>(module)) {
      return layers_.add("Softmax", Arguments().set("axis", keras_axis(m->options.dim())));
    }
    if (auto* m = as<nn::GELUImpl>(module)) {
      refuse_if(m->options.approximate() != "none", "approximates: Keras' is exact");
    }
    if (auto* m = as<nn::ELUImpl>(module)) refuse_if(m->options.alpha() != 1.0, "has an alpha that is not 1");
    if (auto* m = as<nn::CELUImpl>(module)) refuse_if(m->options.alpha() != 1.0, "has an alpha that is not 1");
    if (auto* m = as<nn::SoftplusImpl>(module)) {
      refuse_if(m->options.beta() != 1.0 || m->options.threshold() != 20.0,
                "has a beta that is not 1, or another threshold");
    }
    if (auto* m = as<nn::LogSoftmaxImpl>(module)) {
      refuse_if(keras_axis(m->options.dim()) != static_cast<std::int64_t>(rank()),
                "is along an axis that is not Keras' last");
    }
    for (const auto& [type, name] : activations) {
      if (type == typeid(module)) return layers_.add("Activation", Arguments().set("activation", name));
    }
    refuse("has no counterpart (a class of one's own has none, whatever it is derived from)");
  }

  std::size_t rank() const { return shape_.size(); }

  /// An axis of libtorch's, counted with the batch, as Keras counts it.
  std::int64_t keras_axis(std::int64_t axis) const {
    const auto last = static_cast<std::int64_t>(rank());
    axis = from_front(axis);
    require(axis >= 0 && axis <= last, "is along an axis that is not there");
    refuse_if(axis == 0, "is along the batch");
    if (!channels_first_) return axis;
    return axis == 1 ? last : axis - 1;
  }
  std::int64_t from_front(std::int64_t axis) const {
    return axis < 0 ? axis + static_cast<std::int64_t>(rank()) + 1 : axis;
  }

  void add_linear(torch::nn::LinearImpl& m) {
    refuse_if(channels_first_, "works on the last axis, which is none of Keras' channels: flatten before it");
    const bool has_bias = m.bias.defined();
    const auto units = m.options.out_features();
    const auto layer = layers_.add("Dense", Arguments().set("units", units).set("use_bias", has_bias));
    layers_.bind(layer, "kernel", m.weight.t());
    if (has_bias) layers_.bind(layer, "bias", m.bias);
    shape_.back() = units;
  }

  template <std::size_t N, typename Impl>
  void add_convolution(Impl& m) {
    const auto& options = m.options;
    require_channels(N);
    refuse_if(options.padding_mode().index() != 0, "pads with something else than zeros");
    const std::array<std::int64_t, N> size = *options.kernel_size(), stride = *options.stride(),
                                      dilation = *options.dilation();
    const auto is_more = [](std::int64_t n) { return n > 1; };
    refuse_if(
        std::any_of(stride.begin(), stride.end(), is_more) && std::any_of(dilation.begin(), dilation.end(), is_more),
        "has strides and is dilated");
    using std::get_if;  // or c10's, of libtorch 1
    const auto& given = options.padding();
    bool same = get_if<torch::enumtype::kSame>(&given) != nullptr;
    std::array<std::int64_t, N> pads{};
    if (const auto* numbers = get_if<torch::ExpandingArray<N>>(&given)) {
      pads = **numbers;
      require(std::all_of(pads.begin(), pads.end(), [](std::int64_t n) { return n >= 0; }), "pads by less than 0");
      same = true;
      for (std::size_t i = 0; i < N; ++i) same = same && stride[i] == 1 && 2 * pads[i] == dilation[i] * (size[i] - 1);
      if (!same && pads != std::array<std::int64_t, N>{}) pad<N>(pads);
    }
    const bool has_bias = m.bias.defined();
    const auto layer = layers_.add(N == 1 ? "Conv1D" : "Conv2D", Arguments()
                                                                     .set("filters", options.out_channels())
                                                                     .set("kernel_size", size)
                                                                     .set("strides", stride)
                                                                     .set("padding", same ? "same" : "valid")
                                                                     .set("dilation_rate", dilation)
                                                                     .set("groups", options.groups())
                                                                     .set("use_bias", has_bias));
    if constexpr (N == 1) {
      layers_.bind(layer, "kernel", m.weight.permute({2, 1, 0}));
    } else {
      layers_.bind(layer, "kernel", m.weight.permute({2, 3, 1, 0}));
    }
    if (has_bias) layers_.bind(layer, "bias", m.bias);
    shape_[0] = options.out_channels();
    for (std::size_t i = 0; i < N && !same; ++i) {
      slide(shape_[i + 1], pads[i], dilation[i] * (size[i] - 1) + 1, stride[i]);
    }
  }

  /// Zeros on both sides of each axis, which Keras' layers have only where the output stays as large.
  template <std::size_t N>
  void pad(const std::array<std::int64_t, N>& pads) {
    if constexpr (N == 1) {
      layers_.add("ZeroPadding1D", Arguments().set("padding", pads[0]));
    } else {
      layers_.add("ZeroPadding2D", Arguments().set("padding", pads));
    }
  }

  /// A window moves along an axis.
  static void slide(std::int64_t& axis, std::int64_t pad, std::int64_t window, std::int64_t stride) {
    if (axis != -1) axis = (axis + 2 * pad - window) / stride + 1;
  }

  void require_channels(std::size_t axes) const {
    require(channels_first_ && rank() == axes + 1, "takes channels and " + std::to_string(axes) + " axes");
  }

  template <typename Impl>
  void add_batch_norm(Impl& m, bool takes_rank, const char* takes) {
    const auto& options = m.options;
    require(takes_rank, takes);
    refuse_if(!channels_first_ && rank() != 1, "is along an axis that is not Keras' last");
    refuse_if(!options.track_running_stats() || !m.running_mean.defined(), "tracks no statistics");
    refuse_if(!options.momentum().has_value(), "averages over all batches");
    const bool affine = m.weight.defined();
    const auto layer = layers_.add("BatchNormalization", Arguments()
                                                             .set("epsilon", options.eps())
                                                             .set("momentum", 1.0 - *options.momentum())
                                                             .set("center", affine)
                                                             .set("scale", affine));
    if (affine) {
      layers_.bind(layer, "gamma", m.weight);
      layers_.bind(layer, "beta", m.bias);
    }
    layers_.bind(layer, "moving_mean", m.running_mean);
    layers_.bind(layer, "moving_variance", m.running_var);
  }

  void add_layer_norm(torch::nn::LayerNormImpl& m) {
    const auto& normalized = m.options.normalized_shape();
    const auto n = normalized.size();
    const auto is_axis = [](std::int64_t axis, std::int64_t size) { return axis == -1 || axis == size; };
    require(n >= 1 && n <= rank() &&
                std::equal(shape_.end() - static_cast<std::ptrdiff_t>(n), shape_.end(), normalized.begin(), is_axis),
            "is for " + c10::str(c10::IntArrayRef(normalized)));
    const bool affine = m.weight.defined();
    // The last axes of libtorch's; where these have the channels among them, Keras has them last.
    const bool all = channels_first_ && n == rank();
    std::vector<std::int64_t> axes, order;
    for (std::size_t i = 0; i < n; ++i) {
      const auto axis = static_cast<std::int64_t>(rank() - n + i + 1);
      axes.push_back(channels_first_ && !all ? axis - 1 : axis);
      order.push_back(static_cast<std::int64_t>(all ? (i + 1) % n : i));
    }
    const auto layer = layers_.add(
        "LayerNormalization",
        Arguments().set("axis", axes).set("epsilon", m.options.eps()).set("center", affine).set("scale", affine));
    if (!affine) return;
    layers_.bind(layer, "gamma", m.weight.permute(order));
    layers_.bind(layer, "beta", m.bias.permute(order));
  }

  void add_embedding(torch::nn::EmbeddingImpl& m) {
    require(integers_, "takes integers, as they come in, or behind Identity and Flatten");
    refuse_if(channels_first_, "does not come where there are channels");
    refuse_if(m.options.max_norm().has_value(), "renormalizes");
    const auto layer = layers_.add(
        "Embedding",
        Arguments().set("input_dim", m.options.num_embeddings()).set("output_dim", m.options.embedding_dim()));
    layers_.bind(layer, "embeddings", m.weight);
    shape_.push_back(m.options.embedding_dim());
    integers_ = false;
  }

  template <typename Impl>
  void add_recurrent(Impl& m, const char* name, std::int64_t gates) {
    const auto& options = m.options;
    require(!channels_first_ && rank() == 2, "takes steps of features");
    refuse_if(!options.batch_first(), "has the batch behind the steps: set batch_first");
    refuse_if(options.bidirectional(), "goes both ways");
    if constexpr (std::is_same_v<Impl, torch::nn::LSTMImpl>) refuse_if(options.proj_size() > 0, "projects");
    const Step* next = at_ + 1 < steps_.size() ? &steps_[at_ + 1] : nullptr;
    const bool takes_last = next != nullptr && is_any<TakeLastImpl>(*next->module);
    refuse_if(next != nullptr && (next->in != steps_[at_].in || !is_any<TakeLastImpl, TakeOutputImpl>(*next->module)),
              "is to be followed by TakeOutput or TakeLast");
    const auto parameters = m.named_parameters();
    for (std::int64_t number = 0; number < options.num_layers(); ++number) {
      const bool last = number + 1 == options.num_layers();
      const auto layer = layers_.add(name, Arguments()
                                               .set("units", options.hidden_size())
                                               .set("use_bias", options.bias())
                                               .set("return_sequences", !last || !takes_last));
      const auto of = [&](const char* what, c10::IntArrayRef shape) {
        const at::Tensor& tensor = parameters[what + ("_l" + std::to_string(number))];
        check_is_dense(tensor, what);
        require(tensor.sizes() == shape,
                std::string("has ") + what + " of the shape " + c10::str(tensor.sizes()) + ", not " + c10::str(shape));
        return tensor.detach();
      };
      const auto rows = gates * options.hidden_size();
      const at::Tensor w_ih = of("weight_ih", {rows, shape_.back()}),
                       w_hh = of("weight_hh", {rows, options.hidden_size()});
      const at::Tensor b_ih = options.bias() ? of("bias_ih", {rows}) : at::Tensor(),
                       b_hh = options.bias() ? of("bias_hh", {rows}) : at::Tensor();
      if constexpr (std::is_same_v<Impl, torch::nn::LSTMImpl>) {
        bind_lstm(layers_, layer, w_ih, w_hh, b_ih, b_hh);
      } else {
        bind_gru(layers_, layer, w_ih, w_hh, b_ih, b_hh);
      }
      if (!last && options.dropout() > 0) layers_.add("Dropout", Arguments().set("rate", options.dropout()));
      shape_.back() = options.hidden_size();
    }
    if (takes_last) shape_.erase(shape_.begin());
  }

  void add_flatten(torch::nn::FlattenImpl& m) {
    const auto last = static_cast<std::int64_t>(rank());
    require(last > 0, "has nothing to flatten");
    refuse_if(from_front(m.options.start_dim()) != 1 || from_front(m.options.end_dim()) != last,
              "leaves axes as they are, or takes the batch");
    // In the order in which libtorch has them.
    if (channels_first_ && last > 1) {
      std::vector<std::int64_t> order{last};
      for (std::int64_t axis = 1; axis < last; ++axis) order.push_back(axis);
      layers_.add("Permute", Arguments().set("dims", order));
    }
    layers_.add("Flatten");
    const bool is_known = std::find(shape_.begin(), shape_.end(), -1) == shape_.end();
    shape_ = {is_known ? std::accumulate(shape_.begin(), shape_.end(), std::int64_t{1}, std::multiplies<>()) : -1};
    channels_first_ = false;
  }

  template <std::size_t N, typename Options>
  void add_max_pool(const Options& options) {
    for (const auto n : *options.dilation()) refuse_if(n != 1, "is dilated");
    add_pool<N>(N == 1 ? "MaxPooling1D" : "MaxPooling2D", options);
  }

  template <std::size_t N, typename Options>
  void add_pool(const char* name, const Options& options) {
    require_channels(N);
    for (const auto n : *options.padding()) refuse_if(n != 0, "is padded: Keras' pooling does not pad like that");
    refuse_if(options.ceil_mode(), "has ceil_mode: Keras leaves out what is no whole window");
    const std::array<std::int64_t, N> size = *options.kernel_size(), stride = *options.stride();
    layers_.add(name, Arguments().set("pool_size", size).set("strides", stride));
    for (std::size_t i = 0; i < N; ++i) slide(shape_[i + 1], 0, size[i], stride[i]);
  }

  template <std::size_t N, typename Impl>
  void add_global_pool(Impl& m) {
    require_channels(N);
    for (const auto& n : *m.options.output_size()) refuse_if(output_size(n) != 1, "gives more than one element");
    layers_.add(N == 1 ? "GlobalAveragePooling1D" : "GlobalAveragePooling2D", Arguments().set("keepdims", true));
    std::fill(shape_.begin() + 1, shape_.end(), 1);
  }
  static std::int64_t output_size(std::int64_t n) { return n; }
  static std::int64_t output_size(const at::optional<std::int64_t>& n) { return n.value_or(-1); }

  std::vector<Step> steps_;
  /// The module that is being added.
  std::size_t at_ = 0;
  /// What comes out so far, without the batch, as libtorch has it; -1 where any size will do.
  std::vector<std::int64_t> shape_;
  /// Whether libtorch has the channels first of these, and Keras last.
  bool channels_first_ = false;
  /// Whether it is the input's integers, in another shape at most.
  bool integers_ = false;
  Layers layers_;
};

}  // namespace libckpt::detail

#endif  // CKPT_TORCH_KERAS_HPP
