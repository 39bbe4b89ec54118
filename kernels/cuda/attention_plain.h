// Attention with FP32 activations on the GPU: the path whose arithmetic is FP32 throughout, for runs in which the
// precision of the tensor cores is not enough. Definitions of the arguments: kernels/operations/attention.h.
#pragma once

#include "kernels/operations/attention.h"

namespace dither::cuda {

/// Every view must be FP32: attention_forward() and attention_backward() (kernels.h) see to it.
void plain_attention_forward(const AttentionForward& op, Stream stream);
void plain_attention_backward(const AttentionBackward& op, Stream stream);

}  // namespace dither::cuda
