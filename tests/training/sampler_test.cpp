// How the next token is chosen.
#include "src/training/sampler.h"

#include <cmath>
#include <set>

#include "tests/catch.h"

namespace dither {

namespace {

SamplingConfig options(double temperature, int top_k, double top_p) {
  SamplingConfig s;
  s.temperature = temperature;
  s.top_k = top_k;
  s.top_p = top_p;
  return s;
}

const std::vector<float> kLogits = {0.0f, std::log(4.0f), std::log(2.0f), std::log(1.0f)};  // p = 1/8, 4/8, 2/8, 1/8

std::set<int32_t> reachable(const SamplingConfig& s) {
  std::set<int32_t> tokens;
  for (uint64_t random = 0; random < (uint64_t{1} << 32); random += 1 << 20) {
    tokens.insert(sample_token(kLogits, s, static_cast<uint32_t>(random)));
  }
  return tokens;
}

}  // namespace

TEST_CASE("temperature 0 takes the likeliest token, and the lower id of equals") {
  CHECK(sample_token(kLogits, options(0, 0, 1), 0xFFFFFFFFu) == 1);
  CHECK(sample_token({1.0f, 3.0f, 3.0f}, options(0, 0, 1), 0xFFFFFFFFu) == 1);
}

TEST_CASE("top_k and top_p keep the smallest sets they promise") {
  CHECK(reachable(options(1, 0, 1)) == std::set<int32_t>{0, 1, 2, 3});
  CHECK(reachable(options(1, 2, 1)) == std::set<int32_t>{1, 2});
  CHECK(reachable(options(1, 1, 1)) == std::set<int32_t>{1});
  CHECK(reachable(options(1, 0, 0.4)) == std::set<int32_t>{1});
  CHECK(reachable(options(1, 0, 0.6)) == std::set<int32_t>{1, 2});
  CHECK(reachable(options(1, 0, 0.8)) == std::set<int32_t>{0, 1, 2});
}

// Catches: a masked token that is kept for top_k or by the rounding of the last place.
TEST_CASE("a token of probability 0 is never drawn") {
  std::vector<float> logits = kLogits;
  logits[1] = logits[3] = -INFINITY;
  for (const SamplingConfig& s : {options(1, 0, 1), options(1, 3, 1), options(0.01, 0, 1), options(0, 0, 1)}) {
    std::set<int32_t> drawn;
    for (const uint32_t random : {0u, 1u, 1u << 30, 1u << 31, 0xFFFFFFFEu, 0xFFFFFFFFu}) {
      drawn.insert(sample_token(logits, s, random));
    }
    CHECK((drawn.count(1) == 0 && drawn.count(3) == 0));
  }
}

// Exact: equally spaced random words hit each token in proportion to its probability, to within one word a token.
TEST_CASE("tokens are drawn by their probabilities at the temperature") {
  for (const double temperature : {1.0, 0.5}) {
    const int64_t draws = 1 << 14;
    int64_t count[4] = {};
    for (int64_t i = 0; i < draws; ++i) {
      ++count[sample_token(kLogits, options(temperature, 0, 1), static_cast<uint32_t>(i << 18))];
    }
    double weight[4], total = 0;
    for (int v = 0; v < 4; ++v) total += weight[v] = std::exp(kLogits[static_cast<size_t>(v)] / temperature);
    for (int v = 0; v < 4; ++v) CHECK(std::abs(static_cast<double>(count[v]) - weight[v] / total * draws) <= 1.5);
  }
}

}  // namespace dither
