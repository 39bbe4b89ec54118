// The two things that no operation can be faster than, measured in the same run: moving its bytes and computing its
// products.
#pragma once

#include "kernels/backend.h"
#include "src/benchmark/timing.h"

namespace dither {

struct Ceilings {
  double copy_bytes_per_second;    // read and written
  double product_flop_per_second;  // of a large matrix product in the config's compute type

  /// The time below which nothing that moves and computes so much can stay.
  double floor_seconds(int64_t bytes, double flop) const;
  bool bound_by_product(int64_t bytes, double flop) const;
};

/// Both on random data, the best of a few runs. Frees what it allocates.
Ceilings measure_ceilings(Backend& backend, DType compute, const Effort& effort);

/// Normal deviates. The first million is drawn, the others are copies of it: so that memory fills as fast as it can.
/// Leaves an int16 view as it is.
void fill_with_random(Backend& backend, View to, int64_t elements, double mean, double deviation);

}  // namespace dither
