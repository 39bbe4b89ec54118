// The operations of backend.h on a GPU, but for the matrix products: one function each, which checks its arguments and
// starts its kernels on the stream. One source file a family; every kernel is deterministic and runs on the host under
// the tests. Definitions of the arguments: kernels/operations.
#pragma once

#include "kernels/operations/attention.h"
#include "kernels/operations/embedding.h"
#include "kernels/operations/feed_forward.h"
#include "kernels/operations/loss.h"
#include "kernels/operations/norm.h"
#include "kernels/operations/update.h"

namespace dither::cuda {

void embedding_forward(const EmbeddingForward& op, Stream stream);
void embedding_backward(const EmbeddingBackward& op, Stream stream);
void residual_norm_forward(const ResidualNormForward& op, Stream stream);
void residual_norm_backward(const ResidualNormBackward& op, Stream stream);
void rotary_forward(const RotaryForward& op, Stream stream);
void rotary_backward(const RotaryBackward& op, Stream stream);
void attention_forward(const AttentionForward& op, Stream stream);
void attention_backward(const AttentionBackward& op, Stream stream);
void gelu_forward(const GeluForward& op, Stream stream);
void gelu_backward(const GeluBackward& op, Stream stream);
void swiglu_forward(const SwigluForward& op, Stream stream);
void swiglu_backward(const SwigluBackward& op, Stream stream);
void cross_entropy(const CrossEntropy& op, Stream stream);
void sum_losses(const SumLosses& op, Stream stream);
void initialise(const Initialise& op, Stream stream);
void accumulate(const Accumulate& op, Stream stream);
void squared_norm(const SquaredNorm& op, Stream stream);
void decide_step(const DecideStep& op, Stream stream);
void adamw(const AdamW& op, Stream stream);
void copy(View to, ConstView from, int64_t elements, Stream stream);

}  // namespace dither::cuda
