// Flat arrays of several tensors for the tests of updates: gaps between them, counts that end inside a leaf, a tensor
// of one element, and the middle of a tensor so large that its blocks of random bits need more than 32 bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/operations/update.h"

namespace dither {

constexpr int64_t kFlatElements = 48 * kLeafElements;
constexpr int kGroups = 3;

inline std::vector<Segment> flat_layout() {
  return {
      {.offset = 0, .count = 40'000, .first = 0, .tensor = 7, .group = 0, .decay = true},  // three parts for threads
      {.offset = 40 * kLeafElements, .count = 768, .first = 0, .tensor = 3, .group = 1, .decay = false},
      {.offset = 42 * kLeafElements, .count = 1, .first = 0, .tensor = 0xFFFFFF, .group = 1, .decay = false},
      {.offset = 44 * kLeafElements, .count = 2'500, .first = int64_t{1} << 37, .tensor = 8, .group = 2, .decay = true},
  };
}

/// The same elements in segments of at most `leaves` leaves, last first: how shards might hold them.
inline std::vector<Segment> cut_layout(int64_t leaves) {
  std::vector<Segment> pieces;
  for (const Segment& s : flat_layout()) {
    for (int64_t begin = 0; begin < s.count; begin += leaves * kLeafElements) {
      Segment piece = s;
      piece.offset += begin;
      piece.first += begin;
      piece.count = std::min(leaves * kLeafElements, s.count - begin);
      pieces.push_back(piece);
    }
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

/// body(segment, i, element): every element, with its place i in the flat arrays and its index in its tensor.
template <class Body>
void for_each_element(const std::vector<Segment>& segments, const Body& body) {
  for (const Segment& s : segments) {
    for (int64_t i = 0; i < s.count; ++i) body(s, s.offset + i, s.first + i);
  }
}

inline bool operator==(const ExactSum& a, const ExactSum& b) {
  return std::equal(a.digit, a.digit + 6, b.digit) && a.non_finite == b.non_finite;
}

inline bool operator==(const UpdateSums& a, const UpdateSums& b) {
  return a.intended_squared == b.intended_squared && a.effective_dot == b.effective_dot && a.full_dot == b.full_dot &&
         a.weight_squared == b.weight_squared && a.unchanged == b.unchanged && a.octaves == b.octaves &&
         a.sized == b.sized;
}

}  // namespace dither
