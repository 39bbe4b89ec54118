#include "src/model/model.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "src/model/rotary.h"

namespace dither {

namespace {

struct ArenaSizes {
  int64_t kept, temporary;
};

ArenaSizes arena_sizes(const Config& config) {
  Arena kept(nullptr), temporary(nullptr);
  Activations(config.model, config.precision, config.batch.micro_batch_size, kept, temporary);
  return {kept.bytes(), temporary.bytes()};
}

Activations place(const Config& config, void* kept_memory, void* temporary_memory) {
  Arena kept(kept_memory), temporary(temporary_memory);
  return Activations(config.model, config.precision, config.batch.micro_batch_size, kept, temporary);
}

}  // namespace

void Model::plan(const Config& config, MemoryPlan& plan) {
  const ArenaSizes sizes = arena_sizes(config);
  plan.activations += sizes.kept;
  plan.workspace += sizes.temporary;
}

Model::Model(const Config& config, const ParameterTable& table, ParameterAccess& access, Backend& backend,
             StepScalars* scalars, Stream stream)
    : model_(config.model),
      table_(table),
      access_(access),
      backend_(backend),
      scalars_(scalars),
      stream_(stream),
      kept_memory_(backend.allocate(arena_sizes(config).kept)),
      temporary_memory_(backend.allocate(arena_sizes(config).temporary)),
      a_(place(config, kept_memory_, temporary_memory_)),
      most_sequences_(config.batch.micro_batch_size) {
  if (a_.cos_sin != nullptr) {
    const std::vector<float> table_values = rotary_table(model_);
    backend_.copy_from_host(a_.cos_sin, table_values.data(), static_cast<int64_t>(table_values.size()) * 4, stream_);
    backend_.synchronize(stream_);
  }
  row_.resize(static_cast<size_t>(model_.vocabulary * size_of(a_.logits.type)));
}

Model::~Model() {
  backend_.free(kept_memory_);
  backend_.free(temporary_memory_);
}

void Model::load(const int32_t* tokens, const int32_t* targets, int64_t B, int64_t T) {
  DITHER_ASSERT(B >= 1 && B <= most_sequences_ && T >= 1 && T <= model_.sequence_length);
  B_ = B;
  T_ = T;
  N_ = B * T;
  backend_.copy_from_host(a_.tokens, tokens, N_ * 4, stream_);
  if (targets != nullptr) backend_.copy_from_host(a_.targets, targets, N_ * 4, stream_);
}

void Model::forward() {
  const int first = table_.embedding_bucket(), positions = table_.position_bucket();
  const ConstView tokens = access_.before_forward(first).weight(Role::token_embedding);
  ConstView position_table;
  if (positions >= 0) position_table = access_.before_forward(positions).weight(Role::position_embedding);
  backend_.embedding_forward({.y = a_.embedded,
                              .tokens = a_.tokens,
                              .token_table = tokens,
                              .position_table = position_table,
                              .N = N_,
                              .T = T_,
                              .rows = padded_vocabulary(model_),
                              .C = model_.hidden},
                             stream_);
  access_.release(first);
  if (positions >= 0) access_.release(positions);

  for (int layer = 0; layer < model_.layers; ++layer) block_forward(layer, layer == 0 ? ConstView() : a_.branch);

  const BucketViews& views = access_.before_forward(table_.final_bucket());
  norm_forward(views, Role::final_norm_weight, Role::final_norm_bias, a_.blocks.back().h_feed_forward, a_.branch,
               a_.h_final, a_.final_input, a_.final_mean, a_.final_rstd);
  access_.release(table_.final_bucket());
}

// `branch` is the output of the block below, still to be added to the stream; this block leaves its own in a_.branch.
void Model::block_forward(int layer, ConstView branch) {
  const int64_t C = model_.hidden, F = model_.ffn, HD = int64_t{model_.heads} * model_.head_size;
  const BlockActivations& a = a_.blocks[static_cast<size_t>(layer)];
  const ConstView below = layer == 0 ? a_.embedded : a_.blocks[static_cast<size_t>(layer) - 1].h_feed_forward;
  const BucketViews& views = access_.before_forward(table_.block_bucket(layer));

  norm_forward(views, Role::attention_norm_weight, Role::attention_norm_bias, below, branch,
               layer == 0 ? View() : a.h_attention, a.attention_input, a.attention_mean, a.attention_rstd);
  linear(views, Role::qkv_weight, Role::qkv_bias, a.attention_input, a.qkv, C, qkv_width(model_));
  rotary_forward(views, a);
  backend_.attention_forward({.out = a.attention,
                              .lse = a.lse,
                              .qkv = a.qkv_rotated,
                              .B = B_,
                              .T = T_,
                              .H = model_.heads,
                              .Hkv = model_.kv_heads,
                              .D = model_.head_size,
                              .scale = 1.0f / std::sqrt(static_cast<float>(model_.head_size))},
                             stream_);
  linear(views, Role::projection_weight, Role::projection_bias, a.attention, a_.branch, HD, C);

  norm_forward(views, Role::feed_forward_norm_weight, Role::feed_forward_norm_bias, a.h_attention, a_.branch,
               a.h_feed_forward, a.feed_forward_input, a.feed_forward_mean, a.feed_forward_rstd);
  if (model_.activation == Activation::gelu) {
    linear(views, Role::up_weight, Role::up_bias, a.feed_forward_input, a.hidden, C, F, a.up);
  } else {
    linear(views, Role::up_weight, Role::up_bias, a.feed_forward_input, a.up, C, 2 * F);
    backend_.swiglu_forward({.y = a.hidden, .gate_up = a.up, .N = N_, .F = model_.ffn}, stream_);
  }
  linear(views, Role::down_weight, Role::down_bias, a.hidden, a_.branch, F, C);
  access_.release(table_.block_bucket(layer));
}

void Model::backward() {
  const int last = table_.final_bucket(), first = table_.embedding_bucket(), positions = table_.position_bucket();

  head(true, access_.before_backward(table_.head_bucket()));
  access_.release(table_.head_bucket());  // a tied head stays open: ready after the embedding, below
  backend_.sum_losses({.sum = &scalars_->loss_sum, .losses = a_.losses, .B = B_, .T = T_}, stream_);
  norm_backward(access_.before_backward(last), Role::final_norm_weight, Role::final_norm_bias, {}, a_.d_final,
                a_.h_final, a_.final_mean, a_.final_rstd);
  access_.gradients_ready(last);
  access_.release(last);

  for (int layer = model_.layers - 1; layer >= 0; --layer) block_backward(layer);

  View d_positions;
  if (positions >= 0) d_positions = access_.before_backward(positions).gradient(Role::position_embedding);
  backend_.embedding_backward({.d_token_table = access_.before_backward(first).gradient(Role::token_embedding),
                               .d_position_table = d_positions,
                               .dy = a_.d_stream,
                               .tokens = a_.tokens,
                               .N = N_,
                               .T = T_,
                               .rows = padded_vocabulary(model_),
                               .C = model_.hidden,
                               .accumulate = table_.tied(),
                               .workspace = a_.workspace},
                              stream_);
  for (const int bucket : {positions, first}) {
    if (bucket < 0) continue;
    access_.gradients_ready(bucket);
    access_.release(bucket);
  }
}

void Model::block_backward(int layer) {
  const int64_t C = model_.hidden, F = model_.ffn, HD = int64_t{model_.heads} * model_.head_size;
  const BlockActivations& a = a_.blocks[static_cast<size_t>(layer)];
  const int bucket = table_.block_bucket(layer);
  const BucketViews& views = access_.before_backward(bucket);

  linear_backward(views, Role::down_weight, Role::down_bias, branch_gradient(), a.hidden, a_.d_hidden, F, C);
  if (model_.activation == Activation::gelu) {
    backend_.gelu_backward({.dx = a_.d_up, .dy = a_.d_hidden, .x = a.up, .elements = N_ * F}, stream_);
  } else {
    backend_.swiglu_backward({.d_gate_up = a_.d_up, .dy = a_.d_hidden, .gate_up = a.up, .N = N_, .F = model_.ffn},
                             stream_);
  }
  linear_backward(views, Role::up_weight, Role::up_bias, a_.d_up, a.feed_forward_input, a_.d_input, C,
                  up_width(model_));
  norm_backward(views, Role::feed_forward_norm_weight, Role::feed_forward_norm_bias, a_.d_stream, a_.d_input,
                a.h_feed_forward, a.feed_forward_mean, a.feed_forward_rstd);

  linear_backward(views, Role::projection_weight, Role::projection_bias, branch_gradient(), a.attention, a_.d_attention,
                  HD, C);
  backend_.attention_backward({.d_qkv = a_.d_qkv,
                               .d_out = a_.d_attention,
                               .out = a.attention,
                               .qkv = a.qkv_rotated,
                               .lse = a.lse,
                               .B = B_,
                               .T = T_,
                               .H = model_.heads,
                               .Hkv = model_.kv_heads,
                               .D = model_.head_size,
                               .scale = 1.0f / std::sqrt(static_cast<float>(model_.head_size)),
                               .workspace = a_.workspace},
                              stream_);
  rotary_backward(views, a);
  linear_backward(views, Role::qkv_weight, Role::qkv_bias, a_.d_qkv, a.attention_input, a_.d_input, C,
                  qkv_width(model_));
  norm_backward(views, Role::attention_norm_weight, Role::attention_norm_bias, a_.d_stream, a_.d_input, a.h_attention,
                a.attention_mean, a.attention_rstd);
  access_.gradients_ready(bucket);
  access_.release(bucket);
}

// The order of the calls is that of forward(), backward() and evaluate(); tests/model/model_test.cpp compares them.
void Model::stand_by(bool backward) {
  const int first = table_.embedding_bucket(), positions = table_.position_bucket(), last = table_.final_bucket();
  const int head = table_.head_bucket();
  const auto pass = [this](int bucket) {
    access_.before_forward(bucket);
    access_.release(bucket);
  };
  access_.before_forward(first);
  if (positions >= 0) access_.before_forward(positions);
  access_.release(first);
  if (positions >= 0) access_.release(positions);
  for (int layer = 0; layer < model_.layers; ++layer) pass(table_.block_bucket(layer));
  pass(last);
  if (!backward) return pass(head);

  access_.before_backward(head);
  access_.release(head);
  const auto ready = [this](int bucket) {
    access_.gradients_ready(bucket);
    access_.release(bucket);
  };
  access_.before_backward(last);
  ready(last);
  for (int layer = model_.layers - 1; layer >= 0; --layer) {
    access_.before_backward(table_.block_bucket(layer));
    ready(table_.block_bucket(layer));
  }
  if (positions >= 0) access_.before_backward(positions);
  access_.before_backward(first);
  if (positions >= 0) ready(positions);
  ready(first);
}

void Model::evaluate(ExactSum* sum) {
  head(false, access_.before_forward(table_.head_bucket()));
  access_.release(table_.head_bucket());
  backend_.sum_losses({.sum = sum, .losses = a_.losses, .B = B_, .T = T_}, stream_);
}

// Head and loss in chunks of tokens; with `gradient` also d_final and the head's gradient, which is formed from zero by
// the first chunk and added to by the others.
void Model::head(bool gradient, const BucketViews& views) {
  const Role role = table_.tied() ? Role::token_embedding : Role::head_weight;
  const int64_t C = model_.hidden, Vp = padded_vocabulary(model_);
  const ConstView weight = operand(views.weight(role), a_.cast_weight, Vp * C);
  for (int64_t begin = 0; begin < N_; begin += a_.logits_chunk) {
    const int64_t n = std::min(a_.logits_chunk, N_ - begin);
    const ConstView x = a_.final_input.at(begin * C);
    LinearForward product{};
    product.y = a_.logits;
    product.x = x;
    product.weight = weight;
    product.N = n;
    product.I = C;
    product.O = Vp;
    backend_.linear_forward(product, stream_);
    backend_.cross_entropy({.logits = a_.logits,
                            .losses = a_.losses + begin,
                            .targets = a_.targets + begin,
                            .N = n,
                            .V = model_.vocabulary,
                            .Vp = Vp,
                            .gradient = gradient,
                            .scalars = scalars_},
                           stream_);
    if (!gradient) continue;
    backend_.linear_input_gradient(
        {.dx = a_.d_final.at(begin * C), .dy = a_.logits, .weight = weight, .N = n, .I = C, .O = Vp}, stream_);
    LinearWeightGradient d_head{};
    d_head.d_weight = views.gradient(role);
    d_head.dy = a_.logits;
    d_head.x = x;
    d_head.N = n;
    d_head.I = C;
    d_head.O = Vp;
    d_head.accumulate = begin > 0;
    backend_.linear_weight_gradient(d_head, stream_);
  }
}

void Model::norm_forward(const BucketViews& views, Role weight, Role bias, ConstView x, ConstView r, View h, View y,
                         float* mean, float* rstd) {
  backend_.residual_norm_forward({.h = h,
                                  .y = y,
                                  .mean = mean,
                                  .rstd = rstd,
                                  .x = x,
                                  .r = r,
                                  .weight = views.weight(weight),
                                  .bias = views.weight(bias),
                                  .N = N_,
                                  .C = model_.hidden,
                                  .epsilon = static_cast<float>(model_.norm_epsilon)},
                                 stream_);
}

// The gradient of the stream is updated in place: d_stream = dh + J^T dy.
void Model::norm_backward(const BucketViews& views, Role weight, Role bias, ConstView dh, ConstView dy, ConstView h,
                          const float* mean, const float* rstd) {
  backend_.residual_norm_backward({.dx = a_.d_stream,
                                   .d_weight = views.gradient(weight),
                                   .d_bias = views.gradient(bias),
                                   .dh = dh,
                                   .dy = dy,
                                   .h = h,
                                   .mean = mean,
                                   .rstd = rstd,
                                   .weight = views.weight(weight),
                                   .N = N_,
                                   .C = model_.hidden,
                                   .workspace = a_.workspace},
                                  stream_);
}

// What a product reads must have the type of the activations: an FP32 weight is cast for each use (mixed_autocast,
// fp32_parameters).
ConstView Model::operand(ConstView stored, View cast, int64_t elements) {
  if (!stored || stored.type == a_.branch.type) return stored;
  backend_.copy(cast, stored, elements, stream_);
  return cast;
}

void Model::linear(const BucketViews& views, Role weight, Role bias, ConstView x, View y, int64_t I, int64_t O,
                   View pre_activation) {
  backend_.linear_forward({.y = y,
                           .pre_activation = pre_activation,
                           .x = x,
                           .weight = operand(views.weight(weight), a_.cast_weight, I * O),
                           .bias = operand(views.weight(bias), a_.cast_bias, O),
                           .N = N_,
                           .I = I,
                           .O = O,
                           .epilogue = pre_activation ? Epilogue::gelu : Epilogue::none},
                          stream_);
}

void Model::linear_backward(const BucketViews& views, Role weight, Role bias, ConstView dy, ConstView x, View dx,
                            int64_t I, int64_t O) {
  backend_.linear_weight_gradient({.d_weight = views.gradient(weight),
                                   .d_bias = views.gradient(bias),
                                   .dy = dy,
                                   .x = x,
                                   .N = N_,
                                   .I = I,
                                   .O = O,
                                   .accumulate = false,
                                   .workspace = a_.workspace},
                                  stream_);
  const ConstView w = operand(views.weight(weight), a_.cast_weight, I * O);
  backend_.linear_input_gradient({.dx = dx, .dy = dy, .weight = w, .N = N_, .I = I, .O = O}, stream_);
}

void Model::rotary_forward(const BucketViews& views, const BlockActivations& a) {
  if (a_.cos_sin == nullptr && !model_.qk_norm) return;
  backend_.rotary_forward({.out = a.qkv_rotated,
                           .rstd = a.qk_rstd,
                           .qkv = a.qkv,
                           .cos_sin = a_.cos_sin,
                           .query_gain = views.weight(Role::query_gain),
                           .key_gain = views.weight(Role::key_gain),
                           .N = N_,
                           .T = T_,
                           .H = model_.heads,
                           .Hkv = model_.kv_heads,
                           .D = model_.head_size,
                           .epsilon = static_cast<float>(model_.norm_epsilon)},
                          stream_);
}

void Model::rotary_backward(const BucketViews& views, const BlockActivations& a) {
  if (a_.cos_sin == nullptr && !model_.qk_norm) return;
  backend_.rotary_backward({.d_qkv = a_.d_qkv,
                            .d_query_gain = views.gradient(Role::query_gain),
                            .d_key_gain = views.gradient(Role::key_gain),
                            .d_out = a_.d_qkv,
                            .qkv = a.qkv,
                            .rstd = a.qk_rstd,
                            .cos_sin = a_.cos_sin,
                            .query_gain = views.weight(Role::query_gain),
                            .key_gain = views.weight(Role::key_gain),
                            .N = N_,
                            .T = T_,
                            .H = model_.heads,
                            .Hkv = model_.kv_heads,
                            .D = model_.head_size,
                            .workspace = a_.workspace},
                           stream_);
}

// The gradient of a branch is that of the stream it was added to, in the type of the activations.
ConstView Model::branch_gradient() {
  if (a_.d_stream.type == a_.branch.type) return a_.d_stream;
  backend_.copy(a_.branch, a_.d_stream, N_ * model_.hidden, stream_);
  return a_.branch;
}

void Model::logits(int64_t position, std::vector<float>& out) {
  DITHER_ASSERT(position >= 0 && position < N_);
  const Role role = table_.tied() ? Role::token_embedding : Role::head_weight;
  LinearForward product{};
  product.y = a_.logits;
  product.x = a_.final_input.at(position * model_.hidden);
  product.weight = operand(access_.before_forward(table_.head_bucket()).weight(role), a_.cast_weight,
                           padded_vocabulary(model_) * model_.hidden);
  product.N = 1;
  product.I = model_.hidden;
  product.O = padded_vocabulary(model_);
  backend_.linear_forward(product, stream_);
  access_.release(table_.head_bucket());

  const int64_t V = model_.vocabulary;
  backend_.copy_to_host(row_.data(), a_.logits.data, V * size_of(a_.logits.type), stream_);
  backend_.synchronize(stream_);
  out.resize(static_cast<size_t>(V));
  const ConstView row(row_.data(), a_.logits.type);
  for (int64_t v = 0; v < V; ++v) {
    out[static_cast<size_t>(v)] = row.type == DType::fp32 ? row.fp32()[v] : to_float(row.bf16()[v]);
  }
}

void Model::losses(std::vector<float>& out) {
  out.resize(static_cast<size_t>(N_));
  backend_.copy_to_host(out.data(), a_.losses, N_ * 4, stream_);
  backend_.synchronize(stream_);
}

double Model::flop_per_token(const ModelConfig& model, int64_t parameters) {
  const double attention = static_cast<double>(model.layers) * model.heads * model.head_size * model.sequence_length;
  return 6 * static_cast<double>(parameters) + 6 * attention;
}

}  // namespace dither
