#include "src/model/parameter_table.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace dither {

namespace {

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

ParameterGroup group_of(Role role) {
  switch (role) {
    case Role::token_embedding:
    case Role::position_embedding:
      return ParameterGroup::embedding;
    case Role::qkv_weight:
    case Role::projection_weight:
      return ParameterGroup::attention;
    case Role::up_weight:
    case Role::down_weight:
      return ParameterGroup::feed_forward;
    case Role::head_weight:
      return ParameterGroup::head;
    case Role::qkv_bias:
    case Role::projection_bias:
    case Role::up_bias:
    case Role::down_bias:
      return ParameterGroup::bias;
    default:
      return ParameterGroup::norm;
  }
}

/// A file of weights holds every row that counts.
void check_parts(const Parameter& p) {
  int64_t rows = 0;
  for (const HuggingFacePart& part : p.parts) rows += part.rows;
  DITHER_ASSERT(rows == p.counted_rows);
}

bool is_matrix(ParameterGroup group) { return group != ParameterGroup::norm && group != ParameterGroup::bias; }

}  // namespace

const char* name_of(ParameterGroup group) {
  static constexpr const char* kNames[kParameterGroups] = {"embedding", "attention", "feed_forward",
                                                           "norm",      "bias",      "head"};
  return kNames[static_cast<int>(group)];
}

int64_t padded_vocabulary(const ModelConfig& model) { return round_up(model.vocabulary, 64); }
int64_t qkv_width(const ModelConfig& model) { return int64_t{model.heads + 2 * model.kv_heads} * model.head_size; }
int64_t up_width(const ModelConfig& model) {
  return int64_t{model.ffn} * (model.activation == Activation::swiglu ? 2 : 1);
}

Strategy strategy_of(Plane plane, const PrecisionConfig& precision) {
  return plane == Plane::strategy ? precision.strategy : Strategy::fp32;
}

double bytes_per_parameter(const Config& config) {
  const ParameterTable table(config);
  const PrecisionConfig& p = config.precision;
  const DType gradient = gradient_type(p.gradient);
  const int64_t bytes = bytes_per_parameter(strategy_info(p.strategy), gradient, p.first_moment, p.second_moment);
  const int64_t fp32_bytes = bytes_per_parameter(strategy_info(Strategy::fp32), gradient, DType::fp32, DType::fp32);
  return static_cast<double>(table.counted_elements(Plane::strategy) * bytes +
                             table.counted_elements(Plane::fp32) * fp32_bytes) /
         static_cast<double>(table.counted_elements());
}

ParameterTable::ParameterTable(const Config& config, int64_t shards)
    : precision_(config.precision),
      decay_embeddings_(config.optimizer.decay_embeddings),
      shards_(shards),
      tied_(config.model.tied_embeddings) {
  const ModelConfig& model = config.model;
  const bool gpt2 = model.architecture == Architecture::gpt2;
  const int64_t V = model.vocabulary, Vp = padded_vocabulary(model), C = model.hidden;

  open_bucket("token embedding");
  Parameter& tokens = add(0, -1, Role::token_embedding, "token_embedding", Vp, C,
                          {{gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight", V, false}});
  tokens.counted_rows = V;
  tokens.init_std = model.init_std;

  for (int layer = 0; layer < model.layers; ++layer) {
    open_bucket("block " + std::to_string(layer));
    add_block(model, layer);
  }
  if (model.positions == Positions::learned) {
    open_bucket("position embedding");
    position_bucket_ = static_cast<int>(buckets_.size()) - 1;
    const int64_t T = model.sequence_length;
    add(position_bucket_, -1, Role::position_embedding, "position_embedding", T, C,
        {{"transformer.wpe.weight", T, false}})
        .init_std = model.init_std;
  }
  open_bucket("final norm and head");
  add_norm(model, final_bucket(), -1, Role::final_norm_weight, Role::final_norm_bias, "final_norm",
           gpt2 ? "transformer.ln_f" : "model.norm");
  if (!tied_) {
    Parameter& head = add(final_bucket(), -1, Role::head_weight, "head", Vp, C, {{"lm_head.weight", V, false}});
    head.counted_rows = V;
    head.init_std = model.init_std;
  }
  close_bucket();
  for (const Parameter& p : parameters_) check_parts(p);
}

// A linear weight is [out,in]. Projections back into the residual stream begin smaller by sqrt(2L), as in GPT-2: the
// stream adds 2L of them.
void ParameterTable::add_block(const ModelConfig& model, int layer) {
  const bool gpt2 = model.architecture == Architecture::gpt2;
  const int bucket = block_bucket(layer);
  const int64_t C = model.hidden, F = model.ffn, D = model.head_size;
  const int64_t HD = model.heads * D, KD = model.kv_heads * D;
  const double residual_std = model.init_std / std::sqrt(2.0 * model.layers);
  const std::string ours = "blocks." + std::to_string(layer) + ".";
  const std::string theirs = (gpt2 ? "transformer.h." : "model.layers.") + std::to_string(layer) + ".";
  const std::string attention = theirs + (gpt2 ? "attn." : "self_attn.");
  const std::string mlp = theirs + "mlp.";

  auto qkv_parts = [&](const std::string& what) -> std::vector<HuggingFacePart> {
    if (gpt2) return {{attention + "c_attn." + what, HD + 2 * KD, true}};
    return {{attention + "q_proj." + what, HD, false},
            {attention + "k_proj." + what, KD, false},
            {attention + "v_proj." + what, KD, false}};
  };
  auto up_parts = [&](const std::string& what) -> std::vector<HuggingFacePart> {
    const std::string up = mlp + (gpt2 ? "c_fc." : "up_proj."), gate = mlp + (gpt2 ? "c_gate." : "gate_proj.");
    if (model.activation == Activation::gelu) return {{up + what, F, gpt2}};
    return {{gate + what, F, gpt2}, {up + what, F, gpt2}};
  };
  auto back_parts = [&](const std::string& name) -> std::vector<HuggingFacePart> { return {{name, C, gpt2}}; };
  const std::string projection = attention + (gpt2 ? "c_proj." : "o_proj.");
  const std::string down = mlp + (gpt2 ? "c_proj." : "down_proj.");

  add_norm(model, bucket, layer, Role::attention_norm_weight, Role::attention_norm_bias, ours + "attention_norm",
           theirs + (gpt2 ? "ln_1" : "input_layernorm"));
  add(bucket, layer, Role::qkv_weight, ours + "attention.qkv.weight", HD + 2 * KD, C, qkv_parts("weight")).init_std =
      model.init_std;
  if (model.linear_bias || model.qkv_bias) {
    add_bias(bucket, layer, Role::qkv_bias, HD + 2 * KD, ours + "attention.qkv.bias", qkv_parts("bias"));
  }
  if (model.qk_norm) {
    add(bucket, layer, Role::query_gain, ours + "attention.query_gain", D, 1, {{attention + "q_norm.weight", D, false}})
        .init_mean = 1;
    add(bucket, layer, Role::key_gain, ours + "attention.key_gain", D, 1, {{attention + "k_norm.weight", D, false}})
        .init_mean = 1;
  }
  add(bucket, layer, Role::projection_weight, ours + "attention.projection.weight", C, HD,
      back_parts(projection + "weight"))
      .init_std = residual_std;
  if (model.linear_bias) {
    add_bias(bucket, layer, Role::projection_bias, C, ours + "attention.projection.bias",
             back_parts(projection + "bias"));
  }
  add_norm(model, bucket, layer, Role::feed_forward_norm_weight, Role::feed_forward_norm_bias,
           ours + "feed_forward_norm", theirs + (gpt2 ? "ln_2" : "post_attention_layernorm"));
  add(bucket, layer, Role::up_weight, ours + "feed_forward.up.weight", up_width(model), C, up_parts("weight"))
      .init_std = model.init_std;
  if (model.linear_bias) {
    add_bias(bucket, layer, Role::up_bias, up_width(model), ours + "feed_forward.up.bias", up_parts("bias"));
  }
  add(bucket, layer, Role::down_weight, ours + "feed_forward.down.weight", C, F, back_parts(down + "weight")).init_std =
      residual_std;
  if (model.linear_bias) {
    add_bias(bucket, layer, Role::down_bias, C, ours + "feed_forward.down.bias", back_parts(down + "bias"));
  }
}

void ParameterTable::add_norm(const ModelConfig& model, int bucket, int layer, Role weight, Role bias,
                              const std::string& ours, const std::string& hugging_face) {
  const int64_t C = model.hidden;
  add(bucket, layer, weight, ours + ".weight", C, 1, {{hugging_face + ".weight", C, false}}).init_mean = 1;
  if (model.normalization == Normalization::layer_norm) {
    add(bucket, layer, bias, ours + ".bias", C, 1, {{hugging_face + ".bias", C, false}});
  }
}

// The parts of a bias are those of its matrix; a vector is never stored transposed.
void ParameterTable::add_bias(int bucket, int layer, Role role, int64_t size, const std::string& name,
                              std::vector<HuggingFacePart> parts) {
  for (HuggingFacePart& part : parts) part.transposed = false;
  add(bucket, layer, role, name, size, 1, std::move(parts));
}

Parameter& ParameterTable::add(int bucket, int layer, Role role, const std::string& name, int64_t rows, int64_t columns,
                               std::vector<HuggingFacePart> parts) {
  DITHER_ASSERT(bucket == static_cast<int>(buckets_.size()) - 1);
  Parameter p{};
  p.name = name;
  p.role = role;
  p.bucket = bucket;
  p.group = group_of(role);
  p.rows = rows;
  p.columns = columns;
  p.counted_rows = rows;
  p.decay = is_matrix(p.group) && (p.group != ParameterGroup::embedding || decay_embeddings_);
  p.id = static_cast<uint32_t>(layer + 1) * 256 + static_cast<uint32_t>(role);
  p.plane = plane_of(p.group);
  int64_t& end = flat_elements_[static_cast<size_t>(p.plane)];
  Extent& extent = buckets_.back().extents[static_cast<size_t>(p.plane)];
  p.offset = end;
  p.parts = std::move(parts);
  end += round_up(p.elements(), kLeafElements);
  extent.elements = end - extent.offset;
  parameters_.push_back(std::move(p));
  return parameters_.back();
}

void ParameterTable::open_bucket(const std::string& name) {
  if (!buckets_.empty()) close_bucket();
  buckets_.push_back({name, {Extent{flat_elements_[0], 0}, Extent{flat_elements_[1], 0}}, parameters_.size()});
}

void ParameterTable::close_bucket() {
  for (const Plane plane : kAllPlanes) {
    Extent& extent = buckets_.back().extents[static_cast<size_t>(plane)];
    extent.elements = round_up(extent.elements, shards_ * kLeafElements);
    flat_elements_[static_cast<size_t>(plane)] = extent.offset + extent.elements;
  }
}

Plane ParameterTable::plane_of(ParameterGroup group) const {
  const auto kept = [this](ParameterKind kind) { return precision_.keeps_fp32(kind) ? Plane::fp32 : Plane::strategy; };
  if (group == ParameterGroup::norm) return kept(ParameterKind::norm);
  if (group == ParameterGroup::bias) return kept(ParameterKind::bias);
  if (group == ParameterGroup::embedding) return kept(ParameterKind::embedding);
  return Plane::strategy;
}

const Parameter* ParameterTable::find(int bucket, Role role) const {
  const size_t end = end_of(bucket);
  for (size_t i = buckets_[static_cast<size_t>(bucket)].first_parameter; i < end; ++i) {
    if (parameters_[i].role == role) return &parameters_[i];
  }
  return nullptr;
}

int64_t ParameterTable::largest_part() const {
  int64_t largest = 0;
  for (const Bucket& bucket : buckets_) {
    for (const Extent& part : bucket.extents) largest = std::max(largest, part.elements);
  }
  return largest;
}

int64_t ParameterTable::counted_elements() const {
  int64_t sum = 0;
  for (const Parameter& p : parameters_) sum += p.counted_elements();
  return sum;
}

int64_t ParameterTable::counted_elements(ParameterGroup group) const {
  int64_t sum = 0;
  for (const Parameter& p : parameters_) sum += p.group == group ? p.counted_elements() : 0;
  return sum;
}

int64_t ParameterTable::counted_elements(Plane plane) const {
  int64_t sum = 0;
  for (const Parameter& p : parameters_) sum += p.plane == plane ? p.counted_elements() : 0;
  return sum;
}

std::vector<Segment> ParameterTable::segments(Plane plane) const { return segments(plane, 0, parameters_.size()); }

std::vector<Segment> ParameterTable::segments(Plane plane, size_t first, size_t last) const {
  std::vector<Segment> list;
  for (size_t i = first; i < last; ++i) {
    const Parameter& p = parameters_[i];
    if (p.plane != plane) continue;
    list.push_back({.offset = p.offset,
                    .count = p.elements(),
                    .first = 0,
                    .tensor = p.id,
                    .group = static_cast<int32_t>(p.group),
                    .decay = p.decay});
  }
  return list;
}

std::vector<Segment> ParameterTable::bucket_segments(int bucket, Plane plane) const {
  return bucket_segments(bucket, plane, 0, extent(bucket, plane).elements);
}

std::vector<Segment> ParameterTable::bucket_segments(int bucket, Plane plane, int64_t begin, int64_t end) const {
  const int64_t origin = extent(bucket, plane).offset;
  std::vector<Segment> list;
  for (Segment s : segments(plane, buckets_[static_cast<size_t>(bucket)].first_parameter, end_of(bucket))) {
    s.offset -= origin;
    const int64_t first = std::max(s.offset, begin), last = std::min(s.offset + s.count, end);
    if (first >= last) continue;
    s.first += first - s.offset;
    s.count = last - first;
    s.offset = first - begin;
    list.push_back(s);
  }
  return list;
}

const Parameter& ParameterTable::by_id(uint32_t id) const {
  const auto found =
      std::find_if(parameters_.begin(), parameters_.end(), [id](const Parameter& p) { return p.id == id; });
  DITHER_ASSERT(found != parameters_.end());
  return *found;
}

}  // namespace dither
