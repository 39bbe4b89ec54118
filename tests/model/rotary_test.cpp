// The rotary table and Llama 3's scaling of its frequencies.
#include "src/model/rotary.h"

#include <cmath>

#include "tests/catch.h"

namespace dither {

namespace {

ModelConfig rotary(int T) {
  ModelConfig m;
  m.head_size = 64;
  m.sequence_length = T;
  m.rotary_base = 500000;
  return m;
}

/// The angle of one position and frequency, from the table's cos and sin.
double angle(const std::vector<float>& table, int64_t t, int i) {
  const size_t at = static_cast<size_t>((t * 32 + i) * 2);
  return std::atan2(table[at + 1], table[at]);
}

}  // namespace

TEST_CASE("position 0 does not rotate, position t rotates by t * base^(-2i/D)") {
  const std::vector<float> table = rotary_table(rotary(4));
  REQUIRE(table.size() == 4u * 32 * 2);
  for (int i = 0; i < 32; ++i) {
    CHECK(table[static_cast<size_t>(2 * i)] == 1.0f);
    CHECK(table[static_cast<size_t>(2 * i + 1)] == 0.0f);
    CHECK(angle(table, 1, i) == Approx(std::pow(500000.0, -i / 32.0)).epsilon(1e-6));
    CHECK(angle(table, 3, i) == Approx(3 * std::pow(500000.0, -i / 32.0)).epsilon(1e-6));
  }
}

// Catches: the two limits exchanged, wavelength taken for frequency, a blend that is not continuous.
TEST_CASE("llama3 scaling keeps short waves, stretches long ones by the factor, and blends between") {
  ModelConfig plain = rotary(2), scaled = rotary(2);
  scaled.rotary_scaling = RotaryScaling::llama3;
  scaled.rotary_factor = 8;
  scaled.rotary_low_frequency = 1;
  scaled.rotary_high_frequency = 4;
  scaled.rotary_original_length = 8192;
  const std::vector<float> before = rotary_table(plain), after = rotary_table(scaled);
  int kept = 0, stretched = 0, blended = 0;
  double last = 1;
  for (int i = 0; i < 32; ++i) {
    const double frequency = std::pow(500000.0, -i / 32.0);
    const double wavelength = 2 * 3.14159265358979 / frequency;
    const double ratio = angle(after, 1, i) / angle(before, 1, i);
    CHECK(ratio <= last * (1 + 1e-6));
    last = ratio;
    if (wavelength < 8192.0 / 4) {
      CHECK(ratio == Approx(1).epsilon(1e-6));
      ++kept;
    } else if (wavelength > 8192.0) {
      CHECK(ratio == Approx(0.125).epsilon(1e-6));
      ++stretched;
    } else {
      const double share = (8192.0 / wavelength - 1) / 3;
      CHECK(ratio == Approx((1 - share) / 8 + share).epsilon(1e-5));
      ++blended;
    }
  }
  CHECK((kept > 0 && stretched > 0 && blended > 0));
}

}  // namespace dither
