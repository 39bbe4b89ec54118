// A model ready to compute: backend, parameters, optimizer and model for one config, in the order they depend on each
// other. train, evaluate and sample all start here.
#pragma once

#include <memory>
#include <string>

#include "src/model/model.h"
#include "src/model/plain_parameters.h"
#include "src/optimizer/optimizer.h"

namespace dither {

/// Whether `device` means CUDA here: "cuda", or "auto" where there is a device that this program can use.
bool uses_cuda(const Config& config);

/// The backend that `device` names. Throws Error for a cuda that is not there.
std::unique_ptr<Backend> make_backend(const Config& config);

class Engine {
 public:
  /// Allocates everything; throws Error before that if the plan does not fit into the memory that is free. Weights are
  /// zero until optimizer().initialise() or read_weights().
  explicit Engine(const Config& config);
  Engine(const Config& config, std::unique_ptr<Backend> backend);
  ~Engine();

  /// The memory that the constructor takes, without taking it.
  static MemoryPlan plan(const Config& config);

  const Config& config() const { return config_; }
  const ParameterTable& table() const { return table_; }
  Backend& backend() { return *backend_; }
  PlainParameters& parameters() { return *parameters_; }
  Optimizer& optimizer() { return *optimizer_; }
  Model& model() { return *model_; }

  int64_t samples_per_step() const { return config_.batch.tokens_per_step / config_.model.sequence_length; }
  int64_t micro_batches() const { return samples_per_step() / config_.batch.micro_batch_size; }

  /// Sum of target losses of micro-batches, for evaluation: zero, model().evaluate(evaluation_sum()), read.
  ExactSum* evaluation_sum() { return evaluation_sum_; }
  /// Names the micro-batch of the step that comes next: the draw of its random bits.
  void set_micro_batch(uint32_t index);
  /// The scalars as the last step left them. Waits for the backend.
  StepScalars scalars();
  Stream stream() const { return backend_->stream(); }

 private:
  Config config_;
  ParameterTable table_;
  std::unique_ptr<Backend> backend_;
  StepScalars* scalars_ = nullptr;
  ExactSum* evaluation_sum_ = nullptr;
  std::unique_ptr<PlainParameters> parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Model> model_;
};

}  // namespace dither
