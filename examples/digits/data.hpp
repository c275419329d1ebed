// Handwritten digits: 8x8 pixels from 0 to 16 and, at the end of the row, which digit it is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <istream>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

constexpr std::size_t pixels_per_digit = 64;

struct Digits {
  std::vector<float> pixels;  // from 0 to 1, a row of 64 for each digit
  std::vector<std::uint8_t> labels;

  std::size_t size() const { return labels.size(); }
  const float* row(std::size_t i) const { return &pixels[i * pixels_per_digit]; }
};

inline Digits read_csv(std::istream& in) {
  Digits digits;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::vector<int> numbers;
    for (std::string field; std::getline(fields, field, ',');) numbers.push_back(std::stoi(field));
    if (numbers.size() != pixels_per_digit + 1 || numbers.back() < 0 || numbers.back() > 9) {
      throw std::runtime_error("row " + std::to_string(digits.size() + 1) + " is not 64 pixels and a digit");
    }
    for (std::size_t i = 0; i < pixels_per_digit; ++i) digits.pixels.push_back(static_cast<float>(numbers[i]) / 16.0f);
    digits.labels.push_back(static_cast<std::uint8_t>(numbers.back()));
  }
  return digits;
}

// A number below `n` that is the same with every standard library, as the standard's distributions are not.
inline std::size_t random_below(std::mt19937& random, std::size_t n) { return random() % n; }

inline std::vector<std::size_t> shuffled(std::size_t n, std::mt19937& random) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random_below(random, i)]);
  return order;
}
