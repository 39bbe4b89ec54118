// The optimizer of a run: the buffers that the strategy asks for, initial weights, the global norm, and the AdamW step.
//
// It updates the parts that this process owns (parameters.h), all of the model or a shard. Per step:
//   begin_step .. (gradients are formed) .. add_norm .. (sums over ranks) .. decide .. step .. (sums over ranks)
// Nothing waits for the host: the clip factor and the decision to skip are formed in StepScalars by the backend;
// measures() fetches what is logged.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "kernels/backend.h"
#include "src/config/config.h"
#include "src/model/memory_plan.h"
#include "src/model/parameters.h"

namespace dither {

/// What one measured step did to a group of tensors, or to the whole model (NUMERICS 7).
struct UpdateMeasures {
  double gradient_norm = 0;  // before clipping
  double weight_norm = 0;    // of the stored weight, before the update
  double update_norm = 0;    // ||U||: of what the update intended
  double edq = 0;            // <E,U> / ||U||^2 of the stored weight
  double edq_full = 0;       // the same of the whole state (hi + lo, w - c, master weight)
  double imprecision = 0;    // percent of the parameters that did not change although D != 0
  double update_to_ulp = 0;  // |U| in BF16 ulps of the weight, geometric mean over normal numbers (log2_ulps())
};

struct StepMeasures {
  UpdateMeasures model;
  std::array<UpdateMeasures, kParameterGroups> groups;  // by ParameterGroup
};

/// A flat array of the state of one owned part.
struct StateArray {
  const char* name;
  const OwnedPart* part;
  View view;
  int64_t elements;
};

class Optimizer {
 public:
  /// `parts` must outlive the optimizer. Throws Error when memory is short.
  Optimizer(const Config& config, const ParameterTable& table, const std::vector<OwnedPart>& parts, Backend& backend,
            StepScalars* scalars, Stream stream);
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Adds what the constructor would allocate for such parts.
  static void plan(const Config& config, const std::vector<OwnedPart>& parts, MemoryPlan& plan);

  /// Draws the initial weights (and their extra components) from the config's seed; moments are zero.
  void initialise();
  /// Sets weights from FP32 host values of one tensor, by the same rule as initialise().
  void set_weights(const Parameter& parameter, const std::vector<float>& values);

  /// Before the first micro-batch of a step: hands the step's scalars (sums zero) to the backend; `measure`: this step
  /// also forms the sums behind measures().
  void begin_step(const StepScalars& scalars, bool measure);
  /// Adds the squares of the owned gradients to the sums in StepScalars. After the last backward.
  void add_norm();
  /// Forms loss, norm, clip factor and the decision to apply from those sums.
  void decide();
  /// The update, if the decision was to apply it; `updated(i)` is called when part i has been given to the stream.
  void step(const std::function<void(int64_t part)>& updated);
  /// The sums behind measures(), which over ranks that own different parts must be added up: `count` int64.
  View measure_sums(int64_t& count) const;
  /// What the last measured step did. Waits for the backend.
  StepMeasures measures();

  /// The flat arrays of the state by part, in the order of storage, weights included; absent ones are left out.
  std::vector<StateArray> state() const;

 private:
  struct PartBuffers {
    View weight_extra, first_moment, second_moment, second_moment_extra;
    Segment* segments;
    int64_t segment_count;
  };
  struct Buffers {
    std::vector<PartBuffers> parts;
    ExactSum* group_norms;   // [kParameterGroups], and right behind it
    UpdateSums* group_sums;  // [kParameterGroups]
  };
  static Buffers place(const Config& config, const std::vector<OwnedPart>& parts, Arena& arena);
  void update(const OwnedPart& part, const PartBuffers& buffers);
  void copy_as_stored(const std::vector<float>& values, int64_t begin, int64_t count, View to);

  const Config& config_;
  const ParameterTable& table_;
  const std::vector<OwnedPart>& parts_;
  Backend& backend_;
  StepScalars* scalars_;
  Stream stream_;
  void* memory_ = nullptr;
  Buffers b_{};
  bool measure_ = false;
};

}  // namespace dither
