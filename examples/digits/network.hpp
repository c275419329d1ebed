// Two dense layers, relu and softmax, trained by Adam: what Keras' Dense(32, "relu"), Dense(10, "softmax") compute.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

constexpr std::size_t input_size = 64;
constexpr std::size_t hidden_units = 32;
constexpr std::size_t classes = 10;

// A trainable variable, its gradient, and Adam's running means of the gradient and of its square.
struct Variable {
  explicit Variable(std::size_t n) : value(n), gradient(n), momentum(n), velocity(n) {}

  std::vector<float> value, gradient, momentum, velocity;
};

// y = x * kernel + bias. The kernel is row-major [in, out], as in Keras.
struct Dense {
  Dense(std::size_t inputs, std::size_t outputs, std::mt19937& random)
      : in(inputs), out(outputs), kernel(in * out), bias(out) {
    const float limit = std::sqrt(6.0f / static_cast<float>(in + out));  // Glorot
    for (float& w : kernel.value) w = limit * (static_cast<float>(random() >> 8) / 8388608.0f - 1.0f);
  }

  void forward(const float* x, float* y) const {
    std::copy(bias.value.begin(), bias.value.end(), y);
    for (std::size_t i = 0; i < in; ++i) {
      for (std::size_t j = 0; j < out; ++j) y[j] += x[i] * kernel.value[i * out + j];
    }
  }

  // Adds what `dy`, the gradient of y, means for kernel and bias; gives that of x, if anybody asks.
  void backward(const float* x, const float* dy, float* dx) {
    for (std::size_t j = 0; j < out; ++j) bias.gradient[j] += dy[j];
    for (std::size_t i = 0; i < in; ++i) {
      float sum = 0.0f;
      for (std::size_t j = 0; j < out; ++j) {
        kernel.gradient[i * out + j] += x[i] * dy[j];
        sum += kernel.value[i * out + j] * dy[j];
      }
      if (dx != nullptr) dx[i] = sum;
    }
  }

  std::size_t in, out;
  Variable kernel, bias;
};

using Probabilities = std::array<float, classes>;

class Network {
 public:
  explicit Network(std::mt19937& random) : dense(input_size, hidden_units, random), dense_1(hidden_units, classes, random) {}

  Probabilities predict(const float* x) const {
    std::array<float, hidden_units> hidden;
    return forward(x, hidden);
  }

  // Adds one example's gradients, of the cross-entropy divided by `batch`; returns the probabilities before.
  Probabilities learn(const float* x, std::size_t label, std::size_t batch) {
    std::array<float, hidden_units> hidden, d_hidden;
    const Probabilities p = forward(x, hidden);
    Probabilities d = p;
    d[label] -= 1.0f;
    for (float& dy : d) dy /= static_cast<float>(batch);
    dense_1.backward(hidden.data(), d.data(), d_hidden.data());
    for (std::size_t i = 0; i < hidden_units; ++i) {
      if (hidden[i] == 0.0f) d_hidden[i] = 0.0f;
    }
    dense.backward(x, d_hidden.data(), nullptr);
    return p;
  }

  // A step of Adam along the gradients, which are zero again after it.
  void step() {
    constexpr float beta_1 = 0.9f, beta_2 = 0.999f, epsilon = 1e-7f;
    const auto t = static_cast<float>(++iteration);
    const float rate = learning_rate * std::sqrt(1.0f - std::pow(beta_2, t)) / (1.0f - std::pow(beta_1, t));
    for (Variable* v : {&dense.kernel, &dense.bias, &dense_1.kernel, &dense_1.bias}) {
      for (std::size_t i = 0; i < v->value.size(); ++i) {
        const float g = v->gradient[i];
        v->momentum[i] += (g - v->momentum[i]) * (1.0f - beta_1);
        v->velocity[i] += (g * g - v->velocity[i]) * (1.0f - beta_2);
        v->value[i] -= rate * v->momentum[i] / (std::sqrt(v->velocity[i]) + epsilon);
        v->gradient[i] = 0.0f;
      }
    }
  }

  Dense dense, dense_1;
  std::int32_t iteration = 0;
  float learning_rate = 0.003f;

 private:
  Probabilities forward(const float* x, std::array<float, hidden_units>& hidden) const {
    dense.forward(x, hidden.data());
    for (float& h : hidden) h = std::max(h, 0.0f);
    Probabilities p;
    dense_1.forward(hidden.data(), p.data());
    const float largest = *std::max_element(p.begin(), p.end());
    float sum = 0.0f;
    for (float& y : p) {
      y = std::exp(y - largest);
      sum += y;
    }
    for (float& y : p) y /= sum;
    return p;
  }
};
