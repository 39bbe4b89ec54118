// Every buffer of forward and backward, in one list: what is kept from forward for backward, block by block, and the
// temporaries. N = B*T tokens; the residual stream (h, d_stream) has its own type, all else the activations' type.
#pragma once

#include <vector>

#include "src/config/config.h"
#include "src/model/memory_plan.h"

namespace dither {

struct BlockActivations {
  View h_attention;          // [N,C]        residual stream at the first norm
  float* attention_mean;     // [N]          LayerNorm only
  float* attention_rstd;     // [N]
  View attention_input;      // [N,C]        normalised
  View qkv;                  // [N,qkv]      as projected; rotated in place unless qk_norm
  View qkv_rotated;          // [N,qkv]      what attention reads; the same memory as qkv unless qk_norm
  float* qk_rstd;            // [N,H+Hkv]    qk_norm only
  View attention;            // [N,H*D]
  float* lse;                // [B,H,T]
  View h_feed_forward;       // [N,C]        residual stream at the second norm
  float* feed_forward_mean;  // [N]
  float* feed_forward_rstd;  // [N]
  View feed_forward_input;   // [N,C]
  View up;                   // [N,up]       before gelu, or gate and up of SwiGLU
  View hidden;               // [N,F]        after it
};

struct Activations {
  Activations(const ModelConfig& model, const PrecisionConfig& precision, int64_t B, Arena& kept, Arena& temporary);

  int32_t* tokens;   // [N]
  int32_t* targets;  // [N]
  View embedded;     // [N,C]      the stream before the first block
  std::vector<BlockActivations> blocks;
  View h_final;       // [N,C]
  float* final_mean;  // [N]
  float* final_rstd;  // [N]
  View final_input;   // [N,C]      input of the head
  float* losses;      // [N]

  float* cos_sin;        // [T,D/2,2]  rotary table
  View branch;           // [N,C]      output of a half block, and its gradient where the stream is wider
  View logits;           // [chunk,Vp]
  View d_final;          // [N,C]
  View d_stream;         // [N,C]      gradient of the residual stream
  View d_input;          // [N,C]      gradient of a norm's output
  View d_attention;      // [N,H*D]
  View d_qkv;            // [N,qkv]
  View d_hidden;         // [N,F]
  View d_up;             // [N,up]
  void* workspace;       // the largest that any operation asks for
  View cast_weight;      // a weight, and ...
  View cast_bias;        // ... a bias in the activations' type, for the product at hand; absent where none is FP32
  int64_t logits_chunk;  // tokens whose logits exist at once
};

/// Tokens of one head chunk, a multiple of 64, at most N: about 64 MiB of BF16 logits, more where there would be over
/// eight chunks, because each but the first reads and writes the head's FP32 gradient. A function of the shape alone:
/// the gradient is a sum over chunks.
int64_t head_chunk_tokens(const ModelConfig& model, int64_t N);

}  // namespace dither
