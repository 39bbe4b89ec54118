// Causal attention, forward, on Hopper (compute capability 9.0): BF16 activations. Definitions of the arguments:
// kernels/operations/attention.h.
#pragma once

#include "kernels/operations/attention.h"

namespace dither::cuda {

/// Whether the current device and the head size are those of hopper_attention_forward().
bool hopper_attention_fits(const AttentionForward& op);

/// Head sizes 64 and 128.
void hopper_attention_forward(const AttentionForward& op, Stream stream);

}  // namespace dither::cuda
