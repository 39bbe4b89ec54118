// Sums of FP64 numbers that do not depend on the order or the grouping of the additions (NUMERICS 10).
//
//   value = sum_i digit[i] * 2^(32 i - 96),  six 32-bit digits kept in int64: covers 2^-96 .. 2^96
//
// Adding is integer addition, so threads, ranks and atomics may add in any order. An int64 digit takes 2^31 additions.
// A number's part below 2^-96 is dropped (toward zero); NaN, Inf and magnitudes from 2^96 are counted apart.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/numerics/host_device.h"

namespace dither {

constexpr int64_t kLeafElements = 1024;  // a leaf of a sum: an aligned block of so many elements of one tensor

struct ExactSum {
  int64_t digit[6] = {};
  int64_t non_finite = 0;

  DITHER_HOST_DEVICE void add(double x) {
    const uint64_t bits = std::bit_cast<uint64_t>(x);
    const int exponent = static_cast<int>((bits >> 52) & 0x7FF);
    if (exponent >= 1023 + 96) {
      ++non_finite;
      return;
    }
    if (exponent == 0) return;  // zero or subnormal: far below 2^-96
    uint64_t mantissa = (bits & 0xFFFFFFFFFFFFFull) | 0x10000000000000ull;
    int lowest = exponent - 1023 - 52 + 96;  // place of the mantissa's last bit
    if (lowest < 0) {
      mantissa = lowest > -64 ? mantissa >> -lowest : 0;
      lowest = 0;
    }
    const int i = lowest / 32, shift = lowest % 32;
    const uint64_t upper = mantissa >> (32 - shift);
    const int64_t sign = static_cast<int64_t>(bits >> 63) == 0 ? 1 : -1;
    digit[i] += sign * static_cast<int64_t>((mantissa << shift) & 0xFFFFFFFFull);
    if (i + 1 < 6) digit[i + 1] += sign * static_cast<int64_t>(upper & 0xFFFFFFFFull);
    if (i + 2 < 6) digit[i + 2] += sign * static_cast<int64_t>(upper >> 32);
  }

  DITHER_HOST_DEVICE void add(const ExactSum& other) {
    for (int i = 0; i < 6; ++i) digit[i] += other.digit[i];
    non_finite += other.non_finite;
  }

  /// The sum in FP64 (error below 2 ulp, a function of the value alone); NaN if anything non-finite was added.
  DITHER_HOST_DEVICE double value() const {
    if (non_finite != 0) return std::bit_cast<double>(uint64_t{0x7FF8000000000000ull});
    int64_t normal[6];
    int64_t sign = 1;
    if (carried(1, normal) < 0) carried(sign = -1, normal);  // the magnitude's, so that small negative sums keep theirs
    double sum = 0, unit = 0x1p-96;
    for (int i = 0; i < 6; ++i, unit *= 0x1p32) sum += static_cast<double>(normal[i]) * unit;
    return static_cast<double>(sign) * sum;
  }

 private:
  /// The digits of sign * value, carried: 0 <= normal[i] < 2^32 below the top, which has the sign and is returned.
  DITHER_HOST_DEVICE int64_t carried(int64_t sign, int64_t (&normal)[6]) const {
    int64_t carry = 0;
    for (int i = 0; i < 6; ++i) {
      const int64_t total = sign * digit[i] + carry;
      carry = total >> 32;
      normal[i] = i < 5 ? total & 0xFFFFFFFFll : total;
    }
    return normal[5];
  }
};

}  // namespace dither
