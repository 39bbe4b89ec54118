// What happens to gradients and weights outside of the model: initial values, accumulation over micro-batches, the
// global norm, and AdamW. All run over flat arrays that hold many tensors one after the other, described by segments.
#pragma once

#include "kernels/numerics/adamw.h"
#include "kernels/numerics/philox.h"
#include "kernels/step_scalars.h"
#include "kernels/view.h"

namespace dither {

/// A part of a tensor within flat arrays. Offsets are multiples of kLeafElements, so that leaves of sums and blocks of
/// random bits never straddle a cut.
struct Segment {
  int64_t offset;   // first element in the flat arrays
  int64_t count;    // elements
  int64_t first;    // index of the first element within its whole tensor: what random bits are addressed by
  uint32_t tensor;  // id of random draws
  int32_t group;    // of sums by group
  bool decay;       // weight decay applies
};

/// Throws Error "<operation>: segments[i].<field> is ..." where a list in host memory is not as above says. The check()
/// of an operation cannot do it: its list lies in backend memory.
void check_segments(const char* operation, const Segment* segments, int64_t segment_count);

/// w = mean + std * z, z normal deviates (normal.h) of the stream `initialisation`; std 0: constant. FP64, then FP32.
/// What is stored is WeightRule::initial() of that FP32 value (weight_write.h).
struct Initialise {
  View weight;  // [count] out
  View extra;   // [count] out  absent: none
  Strategy strategy;
  int64_t count;  // elements
  double mean, std;
  uint32_t tensor;
  uint64_t seed;
  int64_t first = 0;  // index of the first element within its whole tensor, a multiple of kLeafElements
  void check() const;
  int64_t bytes() const;  // work.h
};

/// A left fold: sum <- round(sum + addend_c) for c = 0, 1, ..: contributions of micro-batches to the gradient.
///   FP32 sum: RN.   BF16 sum: SR with draw = *draw + c of the stream `purpose`, or RN.
struct Accumulate {
  View sum;                 // flat, BF16 or FP32
  ConstView addend;         // [contributions, stride] each flat, BF16 or FP32
  const Segment* segments;  // offsets count in the sum and in each contribution
  int64_t segment_count;
  bool first;         // begins with sum = round(addend_0): what it held is not read
  Rounding rounding;  // of a BF16 sum
  uint64_t seed;
  const StepScalars* scalars;
  const uint32_t* draw;       // of contribution 0: one of the counts in *scalars
  int64_t contributions = 1;  // at least 1
  int64_t stride = 0;         // elements from one contribution to the next; a multiple of 8
  RandomStream purpose = RandomStream::gradient_accumulation;
  void check() const;
  int64_t bytes(int64_t elements) const;  // work.h; elements of all segments, whose list lies in backend memory
};

/// scalars->squared_norm += sum of squares; leaf: FP64 sum over an aligned block of kLeafElements of one tensor.
struct SquaredNorm {
  ConstView gradient;  // flat, BF16 or FP32
  const Segment* segments;
  int64_t segment_count;
  ExactSum* group_sums;  // [groups] in and out: the same by group; null: not wanted
  StepScalars* scalars;
  void check() const;
  int64_t bytes(int64_t elements) const;  // work.h; elements of all segments, whose list lies in backend memory
};

/// Forms loss, gradient_norm, clip_factor and apply from the sums in `scalars`:
///   loss = loss_sum / targets in FP64     norm = sqrt(squared_norm)     clip = min(1, largest_norm / norm)
///   apply = both finite, loss <= loss_limit, norm <= norm_limit
struct DecideStep {
  StepScalars* scalars;
  void check() const;
  int64_t bytes() const;  // work.h
};

/// What an update did to a group of tensors (NUMERICS 7). U = -D, E = value after - value before.
struct UpdateSums {
  ExactSum intended_squared;  // <U,U>
  ExactSum effective_dot;     // <E,U> of the stored weight
  ExactSum full_dot;          // <E,U> of full_weight()
  ExactSum weight_squared;    // <w,w> before the update
  int64_t unchanged = 0;      // stored weights that did not change although D != 0
  int64_t octaves = 0;        // log2_ulps() added up
  int64_t sized = 0;          // ... over this many: has_size()
  void add(const UpdateSums& other);
};

/// One AdamW step over flat arrays by the rule of the strategy; nothing happens when scalars->apply is 0. The moments'
/// types are the strategy's, or BF16 or FP32 where it leaves them free.
struct AdamW {
  View weight, weight_extra, first_moment, second_moment, second_moment_extra;  // flat, in and out; types by strategy
  ConstView gradient;                                                           // flat, BF16 or FP32
  const Segment* segments;
  int64_t segment_count;
  Strategy strategy;
  Math math;
  Rounding first_moment_rounding, second_moment_rounding;
  double beta1, beta2, epsilon, weight_decay;
  uint64_t seed;
  const StepScalars* scalars;
  UpdateSums* sums;  // [groups] in and out; null: not wanted
  void check() const;
  int64_t bytes(int64_t elements) const;  // work.h; elements of all segments, whose list lies in backend memory
  /// The scalars of adamw_update(), formed the same way on every backend.
  DITHER_HOST_DEVICE AdamWStep step_of(const StepScalars& s, bool decay) const {
    return {.learning_rate = s.learning_rate,
            .beta1 = static_cast<float>(beta1),
            .rest1 = static_cast<float>(1 - beta1),
            .beta2 = static_cast<float>(beta2),
            .rest2 = static_cast<float>(1 - beta2),
            .bias1 = s.bias1,
            .bias2 = s.bias2,
            .epsilon = static_cast<float>(epsilon),
            .weight_decay = decay ? static_cast<float>(weight_decay) : 0.0f,
            .gradient_scale = s.clip_factor,
            .beta2_parts = expansion_of(beta2),
            .first_moment_rounding = first_moment_rounding,
            .second_moment_rounding = second_moment_rounding};
  }
};

}  // namespace dither
