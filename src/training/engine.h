// A model ready to compute: backend, ranks, parameters, optimizer and model for one config, in the order they depend on
// each other. train, evaluate, sample, bench and tune all start here.
//
// A step, in the order of the calls:
//   begin_step .. for each round: begin_round, model().load() where this rank computes, run_round .. update
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>  // move

#include "src/model/model.h"
#include "src/optimizer/optimizer.h"
#include "src/parallel/zero/rank_groups.h"
#include "src/parallel/zero/zero.h"

namespace dither {

/// Called before each piece of work by all ranks, with why this rank cannot do its own ("" : it can): whether all go
/// on, the same answer on every rank.
using GoOn = std::function<bool(const std::string& failure)>;

/// Whether `device` means CUDA here: "cuda", or "auto" where there is a device that this program can use.
bool uses_cuda(const Config& config);

/// The backend that `device` names; of several GPUs the one with this number. Throws Error for a cuda that is not
/// there. `local_ranks`: ranks of this node, which share its cores (kernels/threads.h).
std::unique_ptr<Backend> make_backend(const Config& config, int gpu = 0, int local_ranks = 1);

/// What ranks add up of an evaluation.
struct EvaluationSums {
  ExactSum loss;        // of the targets
  int64_t targets = 0;  // that count
  int64_t bytes = 0;    // that they stand for
};

class Engine {
 public:
  /// Allocates everything; throws Error before that if the plan does not fit into the memory that is free. Weights are
  /// zero until initialise() or read_weights(). Without `make_world` this process is alone.
  explicit Engine(const Config& config);
  using MakeWorld = std::function<std::unique_ptr<Communicator>(Backend& backend)>;  // of all ranks, which call it
  Engine(const Config& config, std::unique_ptr<Backend> backend, const MakeWorld& make_world = {});
  ~Engine();

  /// The memory that the constructor takes on a rank, without taking it.
  static MemoryPlan plan(const Config& config, int rank = 0, int ranks = 1);
  /// The same where the table, padded for all ranks, is there already.
  static MemoryPlan plan(const Config& config, const ParameterTable& table, int rank, int ranks);

  const Config& config() const { return config_; }
  const ParameterTable& table() const { return table_; }
  Backend& backend() { return *backend_; }
  RankGroups& ranks() { return ranks_; }
  const Partition& partition() const { return ranks_.partition(); }
  Parameters& parameters() { return *parameters_; }
  Optimizer& optimizer() { return *optimizer_; }
  Model& model() { return *model_; }

  int64_t samples_per_step() const { return config_.batch.tokens_per_step / config_.model.sequence_length; }
  int64_t micro_batches() const { return samples_per_step() / config_.batch.micro_batch_size; }  // over all ranks
  int64_t rounds() const { return (micro_batches() + partition().ranks - 1) / partition().ranks; }

  /// Draws the initial weights, the same on any number of ranks.
  void initialise();
  /// After weights were set by hand: makes them known to all ranks that use them.
  void publish_weights();

  /// `measure`: the step also forms what optimizer().measures() gives.
  void begin_step(StepScalars scalars, bool measure);
  /// The index within the step of the micro-batch that this rank computes in a round, from 0; -1: it has none.
  int64_t begin_round(int64_t round);
  /// Forward and backward of the loaded micro-batch, or what a rank without one has to do.
  void run_round();
  /// What this rank says of itself with the step's sums (StepScalars); after begin_step(), before update().
  void set_signs(bool stop, bool save, bool shard_written);
  /// Norm, decision and update, over all ranks.
  void update();

  /// Sums of an evaluation over all ranks; `own` are the host's counts of this rank. Waits for the backend.
  EvaluationSums add_evaluation(const EvaluationSums& own);
  /// Where model().evaluate() of this rank adds up, after begin_evaluation().
  ExactSum* evaluation_sum() { return &evaluation_->loss; }
  void begin_evaluation();
  /// Rank 0's value, on every rank; all call it, not within an evaluation. Waits for the backend.
  int64_t from_rank_0(int64_t value);

  /// Who wants to know what this process is doing: `listener` gets what phase() names, in short ("step 3: round 2 of
  /// 4").
  void on_phase(std::function<void(const std::string& name)> listener) { on_phase_ = std::move(listener); }
  void phase(const std::string& name) {
    if (on_phase_) on_phase_(name);
  }

  /// The scalars as the last step left them. Waits for the backend.
  StepScalars scalars();
  Stream stream() const { return backend_->stream(); }

 private:
  /// What a step is made of: the same operations on the same memory each time, but for what lies in StepScalars.
  enum class Piece : uint8_t { first_round, later_round, update, measured_update };
  void repeat(Piece piece, const std::function<void()>& work);
  void sum_over_ranks();

  Config config_;
  std::unique_ptr<Backend> backend_;
  RankGroups ranks_;
  ParameterTable table_;
  StepScalars* scalars_ = nullptr;
  EvaluationSums* evaluation_ = nullptr;
  std::unique_ptr<Parameters> parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Model> model_;
  Round round_;
  bool measure_ = false;
  const int exceptions_ = std::uncaught_exceptions();  // on their way when the engine was made
  std::function<void(const std::string& name)> on_phase_;
};

}  // namespace dither
