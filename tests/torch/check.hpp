// What the programs of tests/python/test_torch.py check with.

#ifndef CKPT_TEST_TORCH_CHECK_HPP
#define CKPT_TEST_TORCH_CHECK_HPP

#include <ckpt_torch.hpp>

#include <cstring>
#include <iostream>
#include <string>

inline int failures = 0;

inline void check(bool is_so, const std::string& what) {
  if (is_so) return;
  std::cerr << "failed: " << what << "\n";
  ++failures;
}

// The same type, shape and bits, zeros and NaNs too.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const auto x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.numel() == 0 || std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

// Of all parameters and buffers.
inline bool same_bits(torch::nn::Module& a, torch::nn::Module& b) {
  const auto tensors = [](torch::nn::Module& module) {
    auto all = module.parameters();
    for (const auto& buffer : module.buffers()) all.push_back(buffer);
    return all;
  };
  const auto x = tensors(a), y = tensors(b);
  bool same = x.size() == y.size();
  for (std::size_t i = 0; same && i < x.size(); ++i) same = same_bits(x[i], y[i]);
  return same;
}

// A call throws an Error with this status, whose message has all these texts.
template <typename Call>
void refused(libckpt::Status status, const std::vector<std::string>& texts, Call call) {
  try {
    call();
    check(false, "not refused: " + texts[0]);
  } catch (const ckpt::Error& error) {
    const std::string message = error.what();
    for (const auto& text : texts) {
      check(error.status() == status && message.find(text) != std::string::npos, text + ": " + message);
    }
  }
}

#endif  // CKPT_TEST_TORCH_CHECK_HPP
