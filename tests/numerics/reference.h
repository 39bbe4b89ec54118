// What the numerics tests measure against: BF16 rounding written a second time in FP64, where it is plain arithmetic
// instead of bit patterns, and a random source whose values are the same with every standard library.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>

#include "kernels/numerics/bf16.h"

namespace dither::reference {

inline float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }

/// The distance between neighbouring BF16 from |x| upward: 2^(e-7), and 2^-133 among the subnormals.
inline double step_bf16(double x) {
  const int exponent = x == 0 ? -126 : std::max(std::ilogb(x), -126);
  return std::ldexp(1.0, exponent - 7);
}

/// RN of an FP64 to BF16. The quotient is exact, its integer's parity is that of the BF16 mantissa, and nearbyint
/// breaks ties to even.
inline double nearest_bf16(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  const double step = step_bf16(x);
  const double rounded = std::nearbyint(x / step) * step;
  return std::fabs(rounded) >= 0x1p128 ? std::copysign(INFINITY, x) : rounded;
}

/// RN of n * 2^exponent: the bits that leave n are gathered in its last one, which then still decides every tie.
inline double nearest_bf16(__int128 n, int exponent) {
  unsigned __int128 magnitude = n < 0 ? -static_cast<unsigned __int128>(n) : static_cast<unsigned __int128>(n);
  for (; magnitude >> 50 != 0; ++exponent) magnitude = (magnitude >> 1) | (magnitude & 1);
  const double x = std::ldexp(static_cast<double>(static_cast<uint64_t>(magnitude)), exponent);
  return nearest_bf16(n < 0 ? -x : x);
}

inline bool is_bf16(float x) { return (bits_of(x) & 0xFFFFu) == 0; }

/// mt19937_64's numbers are fixed by the standard, those of the standard's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t bits() { return engine_(); }
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t least, int64_t most) { return least + below(most - least + 1); }
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }  // [0, 1)
  double sign() { return below(2) == 0 ? 1 : -1; }
  double log_uniform(double least, double most) { return least * std::pow(most / least, uniform()); }
  /// A BF16 m * 2^e, m in [1, 2), of either sign.
  float bf16(int least_exponent, int most_exponent) {
    const double mantissa = sign() * static_cast<double>(between(128, 255));
    return static_cast<float>(std::ldexp(mantissa, static_cast<int>(between(least_exponent, most_exponent)) - 7));
  }

 private:
  std::mt19937_64 engine_;
};

/// Counts the broken cases of a loop too long for a REQUIRE in each turn, and keeps the first one's numbers.
struct Broken {
  int64_t count = 0;
  std::string first = "none";
  template <typename... Numbers>
  void unless(bool holds, Numbers... numbers) {
    if (holds) return;
    if (count++ > 0) return;
    first = "first broken case:";
    (append(static_cast<double>(numbers)), ...);
  }

 private:
  void append(double x) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, " %.17g", x);
    first.append(buffer);
  }
};

}  // namespace dither::reference

/// Ends a loop that filled a Broken.
#define REQUIRE_NONE(broken)      \
  do {                            \
    INFO((broken).first);         \
    REQUIRE((broken).count == 0); \
  } while (false)
