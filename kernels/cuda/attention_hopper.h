// The two kernels of causal attention, forward, with BF16 activations, between which attention_forward() (kernels.h)
// chooses: one for every device, one for Hopper. Definitions of the arguments: kernels/operations/attention.h.
#pragma once

#include "kernels/operations/attention.h"

namespace dither::cuda {

/// With mma, for every head size and all devices from compute capability 8.0 on.
void mma_attention_forward(const AttentionForward& op, Stream stream);

/// With bulk copies and products of warpgroups, for head sizes 64 and 128 on devices of compute capability 9.0.
void hopper_attention_forward(const AttentionForward& op, Stream stream);

/// Whether op and the device are such. The device is asked once: a process uses one.
bool hopper_attention_fits(const AttentionForward& op);

}  // namespace dither::cuda
