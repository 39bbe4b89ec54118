// THE list of a model's parameters: name, shape, initial values, decay, Hugging Face names, and where each one lies.
//
// All tensors lie one after the other in a flat array, each beginning at a multiple of kLeafElements; weights,
// gradients and optimizer state use the same offsets. Tensors are grouped into buckets, the unit in which
// parameter_access.h hands weights out and takes gradients back:
//
//   0            token embedding (by itself: with tied embeddings the head uses it too)
//   1 .. L       the blocks; learned positions lie in a bucket of their own behind the last one
//   final        final norm, and the head where it is not tied
//
// There are two planes of such flat arrays: what the strategy stores, and the tensors that precision.fp32_parameters
// keeps in FP32. Each tensor lies in one of them; a bucket has a part in each. A table made for `shards` ranks pads
// each part to a multiple of shards * kLeafElements, so that it can be shared out evenly.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/operations/update.h"  // Segment
#include "src/config/config.h"          // ModelConfig

namespace dither {

/// What a tensor is for. The numbers are the low bits of the ids of random draws: they may grow, never change.
enum class Role : uint8_t {
  token_embedding = 0,
  position_embedding = 1,
  attention_norm_weight = 2,
  attention_norm_bias = 3,
  qkv_weight = 4,
  qkv_bias = 5,
  query_gain = 6,
  key_gain = 7,
  projection_weight = 8,
  projection_bias = 9,
  feed_forward_norm_weight = 10,
  feed_forward_norm_bias = 11,
  up_weight = 12,  // with SwiGLU gate and up, one below the other
  up_bias = 13,
  down_weight = 14,
  down_bias = 15,
  final_norm_weight = 16,
  final_norm_bias = 17,
  head_weight = 18,
};
constexpr int kRoles = 19;

/// Groups of sums and norms in the metrics.
enum class ParameterGroup : uint8_t { embedding, attention, feed_forward, norm, bias, head };
constexpr int kParameterGroups = 6;
const char* name_of(ParameterGroup group);

/// Which flat arrays a tensor lies in. The second plane follows the rule and types of strategy fp32.
enum class Plane : uint8_t { strategy, fp32 };
constexpr size_t kPlanes = 2;
constexpr std::array<Plane, kPlanes> kAllPlanes = {Plane::strategy, Plane::fp32};

/// One tensor of a Hugging Face checkpoint: `rows` consecutive rows of ours. `transposed`: stored there as [in,out].
struct HuggingFacePart {
  std::string name;
  int64_t rows;
  bool transposed;
};

struct Parameter {
  std::string name;  // "blocks.3.attention.qkv.weight"
  Role role;
  int bucket;
  ParameterGroup group;
  int64_t rows, columns;  // [rows,columns]; a vector is [rows,1]
  int64_t counted_rows;   // rows below it are padding of the vocabulary: zero for ever, counted nowhere
  double init_mean, init_std;
  bool decay;
  uint32_t id;  // of random draws: (block + 1) * 256 + role, block -1 outside of the blocks
  Plane plane;
  int64_t offset;  // in the flat arrays of its plane
  std::vector<HuggingFacePart> parts;

  int64_t elements() const { return rows * columns; }
  int64_t counted_elements() const { return counted_rows * columns; }
};

/// A part of a plane's flat arrays.
struct Extent {
  int64_t offset;    // of the first tensor, a multiple of kLeafElements
  int64_t elements;  // gaps between tensors and padding included
};

struct Bucket {
  std::string name;  // for messages
  std::array<Extent, kPlanes> extents;
  size_t first_parameter = 0;  // of the table; those of a bucket stand together

  const Extent& extent(Plane plane) const { return extents[static_cast<size_t>(plane)]; }
  int64_t elements() const { return extents[0].elements + extents[1].elements; }
};

/// One flat array a plane; absent where the plane is empty.
struct FlatArrays {
  std::array<View, kPlanes> planes;

  View plane(Plane plane) const { return planes[static_cast<size_t>(plane)]; }
  View at(const Parameter& p) const { return plane(p.plane).at(p.offset); }
};

class ParameterTable {
 public:
  explicit ParameterTable(const Config& config, int64_t shards = 1);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }
  /// The parameter with this role in this bucket, or null.
  const Parameter* find(int bucket, Role role) const;

  int embedding_bucket() const { return 0; }
  int block_bucket(int layer) const { return 1 + layer; }
  int layers() const { return (position_bucket_ >= 0 ? position_bucket_ : final_bucket()) - block_bucket(0); }
  int position_bucket() const { return position_bucket_; }  // -1: rotary positions
  int final_bucket() const { return static_cast<int>(buckets_.size()) - 1; }
  /// The bucket whose weight makes the logits: the final one, or with tied embeddings the token embedding's.
  int head_bucket() const { return tied_ ? embedding_bucket() : final_bucket(); }
  bool tied() const { return tied_; }

  /// A bucket's part in a plane's flat arrays, and the elements of the largest part of all.
  const Extent& extent(int bucket, Plane plane) const { return buckets_[static_cast<size_t>(bucket)].extent(plane); }
  int64_t largest_part() const;
  /// Elements of a plane's flat arrays, gaps included.
  int64_t flat_elements(Plane plane) const { return flat_elements_[static_cast<size_t>(plane)]; }
  /// Parameters that count: no gaps, no padded rows, a tied head once.
  int64_t counted_elements() const;
  int64_t counted_elements(ParameterGroup group) const;
  int64_t counted_elements(Plane plane) const;
  /// Segments of whole tensors, for the operations over a plane's flat arrays. Of one bucket, offsets from the start of
  /// its part in that plane.
  std::vector<Segment> segments(Plane plane) const;
  std::vector<Segment> bucket_segments(int bucket, Plane plane) const;
  /// Of the elements [begin, end) of a bucket's part in a plane, multiples of kLeafElements; offsets from `begin`.
  std::vector<Segment> bucket_segments(int bucket, Plane plane, int64_t begin, int64_t end) const;
  /// The parameter whose random draws have this id.
  const Parameter& by_id(uint32_t id) const;

 private:
  /// Of the parameters [first, last) of the table.
  std::vector<Segment> segments(Plane plane, size_t first, size_t last) const;
  /// Index behind the bucket's last parameter.
  size_t end_of(int bucket) const {
    const auto next = static_cast<size_t>(bucket) + 1;
    return next < buckets_.size() ? buckets_[next].first_parameter : parameters_.size();
  }
  void add_block(const ModelConfig& model, int layer);
  void add_norm(const ModelConfig& model, int bucket, int layer, Role weight, Role bias, const std::string& ours,
                const std::string& hugging_face);
  void add_bias(int bucket, int layer, Role role, int64_t size, const std::string& name,
                std::vector<HuggingFacePart> parts);
  Parameter& add(int bucket, int layer, Role role, const std::string& name, int64_t rows, int64_t columns,
                 std::vector<HuggingFacePart> parts);
  void open_bucket(const std::string& name);
  void close_bucket();

  std::vector<Parameter> parameters_;
  std::vector<Bucket> buckets_;
  Plane plane_of(ParameterGroup group) const;

  const PrecisionConfig precision_;
  const bool decay_embeddings_;
  const int64_t shards_;
  bool tied_ = false;
  int position_bucket_ = -1;
  std::array<int64_t, kPlanes> flat_elements_ = {};
};

/// In what gradients are stored.
inline DType gradient_type(GradientStorage storage) {
  return storage == GradientStorage::fp32 ? DType::fp32 : DType::bf16;
}
/// The strategy whose rule and types a plane follows.
Strategy strategy_of(Plane plane, const PrecisionConfig& precision);
/// Bytes of weight, extras, gradient and moments over all parameters that count, for each of them.
double bytes_per_parameter(const Config& config);

/// Rows of embedding and head as stored: the vocabulary padded to a multiple of 64.
int64_t padded_vocabulary(const ModelConfig& model);
/// Channels of the packed projections: (heads + 2 kv_heads) * head_size.
int64_t qkv_width(const ModelConfig& model);
/// Output channels of the first feed-forward layer: ffn, or 2 ffn with SwiGLU.
int64_t up_width(const ModelConfig& model);

}  // namespace dither
