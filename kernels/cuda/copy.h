// Eight neighbouring elements from one place to another.
#pragma once

#include <type_traits>

#include "kernels/cuda/vector.h"

namespace dither {

/// The bits themselves where the type stays (a signalling NaN too), RN where it narrows.
template <class To, class From>
__device__ __forceinline__ void copy8(To* to, const From* from) {
  if constexpr (std::is_same_v<To, From>) {
    constexpr int kAccesses = sizeof(To) * 8 / sizeof(FourWords);
    FourWords words[kAccesses];
    for (int k = 0; k < kAccesses; ++k) words[k] = reinterpret_cast<const FourWords*>(from)[k];
    for (int k = 0; k < kAccesses; ++k) reinterpret_cast<FourWords*>(to)[k] = words[k];
  } else {
    float x[8];
    load8(from, x);
    move8(to, x);
  }
}

}  // namespace dither
