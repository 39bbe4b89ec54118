// Tensors for the tests of operations: memory with a type, filled in ways that make results exact or repeatable.
//
//   TestTensor y(DType::bf16, N * O);                   every element NaN: what an operation forgets to write shows
//   TestTensor x = normal_tensor(DType::bf16, N * I, 1);       seed 1; values rounded to the type by RN
//   TestTensor w = integer_tensor(DType::bf16, O * I, 2, 8);   integers -8..8: sums of products are exact in FP32
//   backend->linear_forward({.y = y, .x = x, ...}, {});        converts to View and ConstView
//   REQUIRE(same_bits(y, expected));  REQUIRE(y.guard_intact());
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "kernels/numerics/normal.h"
#include "kernels/numerics/philox.h"
#include "kernels/view.h"

namespace dither {

/// Owns `elements` of one type, aligned to 256 bytes, with a guard behind the last one.
class TestTensor {
 public:
  TestTensor(DType stored, int64_t count)
      : type_(stored), elements_(count), memory_(static_cast<char*>(operator new(allocated(), kAlignment))) {
    std::memset(memory_.get(), 0xFF, allocated());  // a NaN in both types
  }
  TestTensor(const TestTensor& other) : TestTensor(other.type_, other.elements_) {
    std::memcpy(memory_.get(), other.memory_.get(), allocated());
  }
  TestTensor(TestTensor&&) = default;
  TestTensor& operator=(TestTensor&&) = default;

  operator View() { return {memory_.get(), type_}; }                      // NOLINT: reads as the tensor itself
  operator ConstView() const { return ConstView(memory_.get(), type_); }  // NOLINT
  View at(int64_t element) { return View(*this).at(element); }
  Bf16* bf16() { return reinterpret_cast<Bf16*>(memory_.get()); }
  float* fp32() { return reinterpret_cast<float*>(memory_.get()); }
  const Bf16* bf16() const { return reinterpret_cast<const Bf16*>(memory_.get()); }
  const float* fp32() const { return reinterpret_cast<const float*>(memory_.get()); }

  DType type() const { return type_; }
  int64_t elements() const { return elements_; }
  int64_t bytes() const { return elements_ * size_of(type_); }
  double get(int64_t i) const {
    if (type_ == DType::int16) return reinterpret_cast<const int16_t*>(memory_.get())[i];
    return type_ == DType::bf16 ? to_float(bf16()[i]) : fp32()[i];
  }
  /// Rounds to FP32, then by RN to BF16 where that is the type.
  void set(int64_t i, double value) {
    if (type_ == DType::int16) {
      reinterpret_cast<int16_t*>(memory_.get())[i] = static_cast<int16_t>(value);
    } else if (type_ == DType::bf16) {
      bf16()[i] = round_nearest(static_cast<float>(value));
    } else {
      fp32()[i] = static_cast<float>(value);
    }
  }
  /// Nothing was written behind the last element.
  bool guard_intact() const {
    for (int64_t i = bytes(); i < bytes() + kGuardBytes; ++i) {
      if (static_cast<unsigned char>(memory_.get()[i]) != 0xFF) return false;
    }
    return true;
  }

 private:
  struct Release {
    void operator()(char* memory) const { operator delete(memory, kAlignment); }
  };
  static constexpr std::align_val_t kAlignment{256};
  static constexpr int64_t kGuardBytes = 256;
  size_t allocated() const { return static_cast<size_t>(bytes() + kGuardBytes); }

  DType type_;
  int64_t elements_;
  std::unique_ptr<char, Release> memory_;
};

/// The bits that every random tensor of the tests is made of.
inline NoiseId test_noise(uint64_t seed) { return {seed, 1, 1, RandomStream::initialisation, 0}; }

/// Normal deviates times `deviation`, plus `mean`.
inline TestTensor normal_tensor(DType type, int64_t elements, uint64_t seed, double deviation = 1, double mean = 0) {
  TestTensor tensor(type, elements);
  const NoiseId id = test_noise(seed);
  for (int64_t i = 0; i < elements; ++i) tensor.set(i, mean + deviation * normal_deviate(random_word(id, i)));
  return tensor;
}

/// Integers from -largest to largest, all equally likely. With |a| <= 4, |b| <= 8 and at most 2^19 terms every partial
/// sum of products fits in FP32's 24 bits: any order of adding gives the same bits.
inline TestTensor integer_tensor(DType type, int64_t elements, uint64_t seed, int largest) {
  TestTensor tensor(type, elements);
  const NoiseId id = test_noise(seed);
  const auto values = static_cast<uint32_t>(2 * largest + 1);
  for (int64_t i = 0; i < elements; ++i) {
    tensor.set(i, static_cast<double>(random_word(id, i) % values) - largest);
  }
  return tensor;
}

inline TestTensor filled_tensor(DType type, int64_t elements, double value) {
  TestTensor tensor(type, elements);
  for (int64_t i = 0; i < elements; ++i) tensor.set(i, value);
  return tensor;
}

inline TestTensor tensor_of(DType type, const std::vector<double>& values) {
  TestTensor tensor(type, static_cast<int64_t>(values.size()));
  for (int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, values[static_cast<size_t>(i)]);
  return tensor;
}

inline std::vector<double> to_doubles(const TestTensor& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.elements()));
  for (int64_t i = 0; i < tensor.elements(); ++i) values[static_cast<size_t>(i)] = tensor.get(i);
  return values;
}

/// Same type, same size, same bits: -0 differs from 0, a NaN equals its copy.
inline bool same_bits(const TestTensor& a, const TestTensor& b) {
  if (a.type() != b.type() || a.elements() != b.elements()) return false;
  return std::memcmp(ConstView(a).data, ConstView(b).data, static_cast<size_t>(a.bytes())) == 0;
}

/// max |tensor[i] - expected[i]|; Inf where one of them is a NaN, so that no bound lets it pass.
inline double largest_error(const TestTensor& tensor, const std::vector<double>& expected) {
  if (tensor.elements() != static_cast<int64_t>(expected.size())) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    const double error = std::fabs(tensor.get(i) - expected[static_cast<size_t>(i)]);
    if (!(error <= largest)) largest = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
  return largest;
}

}  // namespace dither
