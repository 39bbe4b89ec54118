// The optimizer of a run: the buffers that the strategy asks for, initial weights, the global norm, and the AdamW step.
//
// Per step:  begin_step .. (gradients are formed) .. clip .. step.  Nothing waits for the host: the clip factor and the
// decision to skip are formed in StepScalars by the backend; read() fetches what is logged.
#pragma once

#include <array>
#include <vector>

#include "kernels/backend.h"
#include "src/config/config.h"
#include "src/model/memory_plan.h"
#include "src/model/parameter_table.h"

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

/// A flat array of the optimizer's state.
struct StateArray {
  const char* name;
  Plane plane;
  View view;
  int64_t elements;
};

class Optimizer {
 public:
  /// `weights` and `gradients` are flat arrays as `table` lays them out. Throws Error when memory is short.
  Optimizer(const Config& config, const ParameterTable& table, const FlatArrays& weights, const FlatArrays& gradients,
            Backend& backend, StepScalars* scalars, Stream stream);
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Adds what the constructor would allocate.
  static void plan(const Config& config, const ParameterTable& table, MemoryPlan& plan);

  /// Draws the initial weights (and their extra components) from the config's seed; moments are zero.
  void initialise();
  /// Sets weights from FP32 host values of one tensor, by the same rule as initialise().
  void set_weights(const Parameter& parameter, const std::vector<float>& values);

  /// Before the first micro-batch of a step: hands the step's scalars (sums zero) to the backend; `measure`: this step
  /// also forms the sums behind measures().
  void begin_step(const StepScalars& scalars, bool measure);
  /// Forms loss, norm, clip factor and the decision to apply. After the last backward.
  void clip();
  /// The update, if the decision was to apply it.
  void step();
  /// What the last measured step did. Waits for the backend.
  StepMeasures measures();

  /// The flat arrays of the state, in the order of storage, weights included; absent ones are left out.
  std::vector<StateArray> state() const;

 private:
  struct PlaneBuffers {
    View weight_extra, first_moment, second_moment, second_moment_extra;
    Segment* segments;
    int64_t segment_count;
  };
  struct Buffers {
    std::array<PlaneBuffers, kPlanes> planes;
    ExactSum* group_norms;   // [kParameterGroups]
    UpdateSums* group_sums;  // [kParameterGroups]
  };
  static Buffers place(const Config& config, const ParameterTable& table, Arena& arena);
  void copy_as_stored(const std::vector<float>& values, View to);

  const Config& config_;
  const ParameterTable& table_;
  FlatArrays weights_, gradients_;
  Backend& backend_;
  StepScalars* scalars_;
  Stream stream_;
  void* memory_ = nullptr;
  Buffers b_{};
  bool measure_ = false;
};

}  // namespace dither
