// A GPT or a Llama, forward and backward written out by hand over Backend. One description covers both:
//
//   h = token_embedding[token] (+ position_embedding[t])
//   block:  h += projection(attention(rotary(qkv(norm(h)))))        h += down(activation(up(norm(h))))
//   logits = head(norm(h))
//
// Weights and gradients come only through ParameterAccess. The logits never exist whole: the head, the loss and their
// gradients are computed together, chunk by chunk over the tokens, at the beginning of backward().
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "src/model/activations.h"
#include "src/model/parameter_access.h"

namespace dither {

class Model {
 public:
  /// Buffers for micro-batches of up to config.batch.micro_batch_size sequences. `scalars` lies in backend memory.
  /// Throws Error when memory is short.
  Model(const Config& config, const ParameterTable& table, ParameterAccess& access, Backend& backend,
        StepScalars* scalars, Stream stream);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  /// Adds what the constructor would allocate.
  static void plan(const Config& config, MemoryPlan& plan);

  /// Takes tokens and targets [B,T] from host memory; B and T up to the config's. Targets may be null (sampling).
  void load(const int32_t* tokens, const int32_t* targets, int64_t B, int64_t T);
  /// Hidden states of the loaded micro-batch, up to the input of the head.
  void forward();
  /// Adds the loss to scalars->loss_sum and writes every gradient of the micro-batch. After forward().
  void backward();
  /// What forward() and backward() ask of the parameters, without computing anything: for a rank that has no
  /// micro-batch while others have, since weights and gradients travel among all ranks. Of forward() and evaluate() or
  /// logits() alone: stand_by(false).
  void stand_by(bool backward);
  /// Adds the sum of the target losses to *sum (backend memory), no gradients. After forward().
  void evaluate(ExactSum* sum);
  /// The logits [V] of the token at `position` of the loaded micro-batch, to host memory. After forward().
  void logits(int64_t position, std::vector<float>& out);
  /// The losses [B,T] of the last backward() or evaluate(), to host memory; 0 where the target does not count.
  void losses(std::vector<float>& out);

  /// FLOP of training one token, causal convention: 6 N + 6 L C T; N = all parameters, T the sequence length.
  static double flop_per_token(const ModelConfig& model, int64_t parameters);

 private:
  void block_forward(int layer, ConstView branch);
  void block_backward(int layer);
  void head(bool gradient, const BucketViews& views);
  void norm_forward(const BucketViews& views, Role weight, Role bias, ConstView x, ConstView r, View h, View y,
                    float* mean, float* rstd);
  void norm_backward(const BucketViews& views, Role weight, Role bias, ConstView dh, ConstView dy, ConstView h,
                     const float* mean, const float* rstd);
  void linear(const BucketViews& views, Role weight, Role bias, ConstView x, View y, int64_t I, int64_t O,
              View pre_activation = {});
  void linear_backward(const BucketViews& views, Role weight, Role bias, ConstView dy, ConstView x, View dx, int64_t I,
                       int64_t O);
  void rotary_forward(const BucketViews& views, const BlockActivations& a);
  void rotary_backward(const BucketViews& views, const BlockActivations& a);
  ConstView operand(ConstView stored, View cast, int64_t elements);
  ConstView branch_gradient();

  const ModelConfig model_;
  const ParameterTable& table_;
  ParameterAccess& access_;
  Backend& backend_;
  StepScalars* scalars_;
  Stream stream_;
  void* kept_memory_;
  void* temporary_memory_;
  Activations a_;
  int64_t most_sequences_;
  int64_t B_ = 0, T_ = 0, N_ = 0;
  std::vector<char> row_;  // one row of logits on its way to the host
};

}  // namespace dither
