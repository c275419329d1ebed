/// @file
/// The variables of LSTM and GRU as Keras has them. See ckpt_torch.hpp.

#ifndef CKPT_TORCH_RECURRENT_HPP
#define CKPT_TORCH_RECURRENT_HPP

#include <cstddef>

#include <torch/torch.h>

#include "ckpt_torch_layers.hpp"

namespace libckpt::detail {

// The tensors are detached: see ckpt_torch_tensors.hpp.

/// The gates are in the same order; of the two biases Keras has the sum.
inline void bind_lstm(Layers& layers, std::size_t layer, const at::Tensor& w_ih, const at::Tensor& w_hh,
                      const at::Tensor& b_ih, const at::Tensor& b_hh) {
  layers.bind(layer, "kernel", w_ih.t());
  layers.bind(layer, "recurrent_kernel", w_hh.t());
  if (!b_ih.defined()) return;
  layers.bind_made(
      layer, "bias", b_ih.scalar_type(), [b_ih, b_hh] { return b_ih + b_hh; },
      [b_ih, b_hh](const at::Tensor& sum) {
        b_ih.copy_(sum);
        b_hh.zero_();
      });
}

/// Keras has the update gate before the reset gate.
inline void bind_gru(Layers& layers, std::size_t layer, const at::Tensor& w_ih, const at::Tensor& w_hh,
                     const at::Tensor& b_ih, const at::Tensor& b_hh) {
  const auto swapped = [](const at::Tensor& gates) {
    const auto parts = gates.chunk(3, 0);
    return at::cat({parts[1], parts[0], parts[2]}, 0);
  };
  const auto bind_kernel = [&](const char* name, const at::Tensor& w) {
    layers.bind_made(
        layer, name, w.scalar_type(), [w, swapped] { return swapped(w).t(); },
        [w, swapped](const at::Tensor& kernel) { w.copy_(swapped(kernel.t())); });
  };
  bind_kernel("kernel", w_ih);
  bind_kernel("recurrent_kernel", w_hh);
  if (!b_ih.defined()) return;
  layers.bind_made(
      layer, "bias", b_ih.scalar_type(), [b_ih, b_hh, swapped] { return at::stack({swapped(b_ih), swapped(b_hh)}); },
      [b_ih, b_hh, swapped](const at::Tensor& both) {
        b_ih.copy_(swapped(both[0]));
        b_hh.copy_(swapped(both[1]));
      });
}

}  // namespace libckpt::detail

#endif  // CKPT_TORCH_RECURRENT_HPP
