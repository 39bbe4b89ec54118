#include "src/model/activations.h"

#include <algorithm>

#include "kernels/backend.h"  // workspace_bytes() of the operations
#include "src/model/parameter_table.h"

namespace dither {

namespace {

// The largest workspace of one backward pass over N tokens; the views are only asked whether they are present.
int64_t largest_workspace(const ModelConfig& model, int64_t B) {
  const int64_t T = model.sequence_length, N = B * T, C = model.hidden, qkv = qkv_width(model);
  const int H = model.heads, Hkv = model.kv_heads, D = model.head_size;
  Bf16 something;
  const View present{&something, DType::bf16};
  EmbeddingBackward embedding{};
  embedding.N = N;
  embedding.rows = padded_vocabulary(model);
  ResidualNormBackward norm{};
  norm.N = N;
  norm.C = model.hidden;
  RotaryBackward rotary{};
  rotary.query_gain = model.qk_norm ? ConstView(present) : ConstView();
  rotary.N = N;
  rotary.D = D;
  AttentionBackward attention{};
  attention.B = B;
  attention.T = T;
  attention.H = H;
  attention.Hkv = Hkv;
  attention.D = D;
  int64_t bytes = std::max(
      {embedding.workspace_bytes(), norm.workspace_bytes(), rotary.workspace_bytes(), attention.workspace_bytes()});
  for (const int64_t O : {qkv, C, up_width(model)}) {
    LinearWeightGradient linear{};
    linear.d_bias = present;
    linear.N = N;
    linear.O = O;
    bytes = std::max(bytes, linear.workspace_bytes());
  }
  return bytes;
}

/// Whether a product has to cast FP32 weights, or biases, to the type of the activations.
bool casts_weights(const ModelConfig& model, const PrecisionConfig& p) {
  const bool head = model.tied_embeddings && p.keeps_fp32(ParameterKind::embedding);
  return (strategy_info(p.strategy).weight == DType::fp32 || head) && p.compute != DType::fp32;
}
bool casts_biases(const ModelConfig& model, const PrecisionConfig& p) {
  const bool fp32 = strategy_info(p.strategy).weight == DType::fp32 || p.keeps_fp32(ParameterKind::bias);
  return (model.linear_bias || model.qkv_bias) && fp32 && p.compute != DType::fp32;
}

}  // namespace

int64_t head_chunk_tokens(const ModelConfig& model, int64_t N) {
  constexpr int64_t kLogits = int64_t{1} << 25, kChunks = 8;
  const int64_t by_memory = kLogits / padded_vocabulary(model) / 64 * 64;
  const int64_t by_count = (N + 64 * kChunks - 1) / (64 * kChunks) * 64;
  return std::min(std::max({int64_t{64}, by_memory, by_count}), N);
}

Activations::Activations(const ModelConfig& model, const PrecisionConfig& precision, int64_t B, Arena& kept,
                         Arena& temporary) {
  const int64_t T = model.sequence_length, N = B * T, C = model.hidden, F = model.ffn;
  const int64_t HD = int64_t{model.heads} * model.head_size, qkv = qkv_width(model), up_columns = up_width(model);
  const DType stream = precision.residual, type = precision.compute;
  const bool layer_norm = model.normalization == Normalization::layer_norm;
  auto mean = [&] { return layer_norm ? kept.array<float>(N) : nullptr; };

  tokens = kept.array<int32_t>(N);
  targets = kept.array<int32_t>(N);
  embedded = kept.tensor(N * C, stream);
  for (int layer = 0; layer < model.layers; ++layer) {
    BlockActivations b{};
    b.h_attention = layer == 0 ? embedded : kept.tensor(N * C, stream);
    b.attention_mean = mean();
    b.attention_rstd = kept.array<float>(N);
    b.attention_input = kept.tensor(N * C, type);
    b.qkv = kept.tensor(N * qkv, type);
    b.qkv_rotated = model.qk_norm ? kept.tensor(N * qkv, type) : b.qkv;
    b.qk_rstd = model.qk_norm ? kept.array<float>(N * (model.heads + model.kv_heads)) : nullptr;
    b.attention = kept.tensor(N * HD, type);
    b.lse = kept.array<float>(N * model.heads);
    b.h_feed_forward = kept.tensor(N * C, stream);
    b.feed_forward_mean = mean();
    b.feed_forward_rstd = kept.array<float>(N);
    b.feed_forward_input = kept.tensor(N * C, type);
    b.up = kept.tensor(N * up_columns, type);
    b.hidden = kept.tensor(N * F, type);
    blocks.push_back(b);
  }
  h_final = kept.tensor(N * C, stream);
  final_mean = mean();
  final_rstd = kept.array<float>(N);
  final_input = kept.tensor(N * C, type);
  losses = kept.array<float>(N);

  logits_chunk = head_chunk_tokens(model, N);
  cos_sin = model.positions == Positions::rotary ? temporary.array<float>(T * model.head_size) : nullptr;
  branch = temporary.tensor(N * C, type);
  logits = temporary.tensor(logits_chunk * padded_vocabulary(model), type);
  d_final = temporary.tensor(N * C, type);
  d_stream = temporary.tensor(N * C, stream);
  d_input = temporary.tensor(N * C, type);
  d_attention = temporary.tensor(N * HD, type);
  d_qkv = temporary.tensor(N * qkv, type);
  d_hidden = temporary.tensor(N * F, type);
  d_up = model.activation == Activation::swiglu ? temporary.tensor(N * up_columns, type) : d_hidden;
  if (casts_weights(model, precision)) {
    const int64_t largest = std::max({qkv * C, HD * C, up_columns * C, F * C, padded_vocabulary(model) * C});
    cast_weight = temporary.tensor(largest, type);
  }
  if (casts_biases(model, precision)) cast_bias = temporary.tensor(std::max({qkv, C, up_columns}), type);
  workspace = temporary.take(largest_workspace(model, B));
}

}  // namespace dither
