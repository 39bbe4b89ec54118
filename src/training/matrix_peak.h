// What the machine's matrix products reach, measured: the honest ceiling of a run's FLOP/s.
#pragma once

#include "kernels/backend.h"

namespace dither {

/// FLOP/s of a large product X[N,I] W[O,I]^T in `type` on random data (zeros flatter), the best of a few runs within
/// about half a second. Frees what it allocates.
double measure_matrix_peak(Backend& backend, DType type);

}  // namespace dither
