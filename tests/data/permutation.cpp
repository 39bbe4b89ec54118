// Laws of the shuffle: each epoch visits every window once, in an order of its own.
#include "src/data/permutation.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/catch.h"

namespace dither {
namespace {

std::vector<int64_t> order(int64_t size, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i < size; ++i) places.push_back(permuted(i, size, seed, epoch));
  return places;
}

}  // namespace

// Catches: a hash in place of a permutation, a walk that stops too soon, halves of unequal width that lose a bit.
TEST_CASE("every size is permuted without gap or repetition") {
  std::vector<int64_t> sizes = {255, 256, 257, 1000, 1023, 1024, 1025, 4095, 4097, 65537};
  for (int64_t size = 1; size <= 70; ++size) sizes.push_back(size);
  for (const int64_t size : sizes) {
    for (const int64_t epoch : {0, 1, 2}) {
      std::vector<int64_t> places = order(size, 1337, epoch);
      std::sort(places.begin(), places.end());
      for (int64_t i = 0; i < size; ++i) REQUIRE(places[i] == i);
    }
  }
}

// Catches: a key without the epoch or without half of the seed. Two fair orders of 1,000 share one place on average and
// 15 with probability below 1e-12 (Poisson).
TEST_CASE("epochs and seeds have orders of their own") {
  const std::vector<int64_t> base = order(1000, 1337, 0);
  const auto shared = [&base](const std::vector<int64_t>& other) {
    int same = 0;
    for (size_t i = 0; i < base.size(); ++i) same += base[i] == other[i];
    return same;
  };
  REQUIRE(shared(order(1000, 1337, 0)) == 1000);
  REQUIRE(shared(order(1000, 1337, 1)) < 15);
  REQUIRE(shared(order(1000, 1337, int64_t{1} << 32)) < 15);
  REQUIRE(shared(order(1000, 1338, 0)) < 15);
  REQUIRE(shared(order(1000, 1337 + (uint64_t{1} << 32), 0)) < 15);
  std::vector<int64_t> sorted = base;
  std::sort(sorted.begin(), sorted.end());
  REQUIRE(shared(sorted) < 15);
}

// Catches: too few rounds for tiny corpora, a draw shared by rounds. Over 24,000 epochs each of the 24 orders of four
// windows is expected 1,000 times with a deviation of 31; 6 deviations are 186.
TEST_CASE("all orders of a tiny corpus are equally likely") {
  constexpr int kEpochs = 24'000;
  std::vector<int> seen(256, 0);
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    int code = 0;
    for (const int64_t place : order(4, 99, epoch)) code = 4 * code + static_cast<int>(place);
    ++seen[code];
  }
  REQUIRE(std::count_if(seen.begin(), seen.end(), [](int n) { return n > 0; }) == 24);
  for (const int n : seen) {
    if (n > 0) REQUIRE(std::abs(n - kEpochs / 24) < 186);
  }
}

// Catches: 32-bit halves or indices. A value that two indices share would break the bijection.
TEST_CASE("sizes beyond 32 bits stay inside and apart") {
  for (const int64_t size : {(int64_t{1} << 32) + 1, (int64_t{1} << 40) + 12345, int64_t{1} << 62}) {
    std::vector<int64_t> places;
    for (int64_t i = 0; i < 2000; ++i) places.push_back(permuted(size - 1 - i, size, 5, 3));
    std::sort(places.begin(), places.end());
    REQUIRE(places.front() >= 0);
    REQUIRE(places.back() < size);
    REQUIRE(std::adjacent_find(places.begin(), places.end()) == places.end());
    REQUIRE(places[1000] > size / 4);  // spread out, not the lowest bits alone
    REQUIRE(places[1000] < size / 4 * 3);
  }
}

// Catches: any change of the order, which a resumed run relies on. The values come from a program of its own that was
// written from docs/data-format.md.
TEST_CASE("the order of the windows never changes between versions") {
  REQUIRE(order(10, 1337, 0) == std::vector<int64_t>{1, 0, 3, 8, 9, 5, 4, 2, 6, 7});
  REQUIRE(order(10, 1337 + (uint64_t{1} << 32), (int64_t{1} << 32) + 1) ==
          std::vector<int64_t>{4, 1, 6, 0, 2, 3, 7, 9, 8, 5});
  REQUIRE(permuted(123'456'789, 10'000'000'000, 1337, 7) == 6'395'166'681);
}

}  // namespace dither
