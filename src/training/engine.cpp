#include "src/training/engine.h"

#include <fmt/format.h>

#include <cstddef>
#include <exception>

#include "base/error.h"
#include "base/free_memory.h"
#include "base/input_file.h"
#include "kernels/threads.h"
#include "src/parallel/single_rank.h"

namespace dither {

namespace {

/// A process by itself has all, however the config shares out.
ParallelConfig parallel_of(const Config& config, bool alone) {
  ParallelConfig parallel = config.parallel;
  if (alone) parallel.shard_group_size = 0;
  return parallel;
}

/// What the backend holds already is part of the plan.
void check_fit(const MemoryPlan& plan, const Backend& backend, bool cuda) {
  const int64_t available = backend.free_bytes() < 0 ? -1 : backend.free_bytes() + backend.allocated_bytes();
  if (available < 0 || plan.total() <= available) return;
  constexpr double kMiB = 1 << 20;
  throw Error(fmt::format(
      "the model does not fit: weights {:.0f} + gradients {:.0f} + optimizer state {:.0f} + activations {:.0f} + "
      "workspace {:.0f} = {:.0f} MiB, and {:.0f} MiB of memory are free{}\n       cures: a smaller "
      "batch.micro_batch_size or "
      "model.sequence_length, a strategy with fewer bytes a parameter, a smaller model",
      plan.parameters / kMiB, plan.gradients / kMiB, plan.optimizer_state / kMiB, plan.activations / kMiB,
      plan.workspace / kMiB, plan.total() / kMiB, available / kMiB, cuda ? "" : " (" + free_memory().limit + ")"));
}

}  // namespace

bool uses_cuda(const Config& config) {
  return config.device == "cuda" || (config.device == "auto" && cuda_devices() > 0);
}

int threads_of(const Config& config, int local_ranks) {
  return config.parallel.threads > 0 ? config.parallel.threads : usable_threads(local_ranks).threads;
}

std::unique_ptr<Backend> make_backend(const Config& config, int gpu, int local_ranks) {
  constexpr InputKind kTable = {"a table of algorithms", "a table that dither tune has made", 64 << 20};
  auto backend = uses_cuda(config) ? make_cuda_backend(gpu) : make_cpu_backend(threads_of(config, local_ranks));
  if (!config.algorithms.empty()) {
    backend->use_algorithms(read_input(config.algorithms, kTable, "algorithms: " + config.algorithms),
                            config.algorithms);
  }
  return backend;
}

MemoryPlan Engine::plan(const Config& config, int rank, int ranks) {
  return plan(config, ParameterTable(config, ranks), rank, ranks);
}

MemoryPlan Engine::plan(const Config& config, const ParameterTable& table, int rank, int ranks) {
  const Partition partition = partition_of(parallel_of(config, ranks == 1), rank, ranks);
  MemoryPlan plan;
  plan.workspace += sizeof(StepScalars) + sizeof(EvaluationSums);
  if (uses_cuda(config)) plan.workspace += cuda_workspace_bytes();
  Optimizer::plan(config, plan_parameters(table, zero_options(config), partition, plan), plan);
  Model::plan(config, plan);
  return plan;
}

Engine::Engine(const Config& config) : Engine(config, make_backend(config)) {}

Engine::Engine(const Config& config, std::unique_ptr<Backend> backend, const MakeWorld& make_world)
    : config_(config),
      backend_(std::move(backend)),
      ranks_(make_world ? make_world(*backend_) : make_single_rank(*backend_), parallel_of(config_, !make_world)),
      table_(config, partition().ranks) {
  check_fit(plan(config_, partition().rank, partition().ranks), *backend_, uses_cuda(config_));
  scalars_ = static_cast<StepScalars*>(backend_->allocate(sizeof(StepScalars)));
  evaluation_ = static_cast<EvaluationSums*>(backend_->allocate(sizeof(EvaluationSums)));
  parameters_ = make_parameters(table_, zero_options(config_), ranks_, *backend_, scalars_);
  optimizer_ = std::make_unique<Optimizer>(config_, table_, parameters_->owned(), *backend_, scalars_, stream());
  model_ = std::make_unique<Model>(config_, table_, *parameters_, *backend_, scalars_, stream());
}

// After an error peers may never come: what waits for them must be given up before memory is freed, which waits for the
// device.
Engine::~Engine() {
  if (std::uncaught_exceptions() > exceptions_) ranks_.abort();
  backend_->free(scalars_);
  backend_->free(evaluation_);
}

void Engine::initialise() {
  optimizer_->initialise();
  publish_weights();
}

void Engine::publish_weights() {
  for (size_t i = 0; i < parameters_->owned().size(); ++i) parameters_->updated(static_cast<int64_t>(i));
  parameters_->finish_update();
}

void Engine::begin_step(StepScalars scalars, bool measure) {
  measure_ = measure;
  scalars.micro_batches = static_cast<uint32_t>(micro_batches());
  optimizer_->begin_step(scalars, measure);
}

// The parameters first: work beside the stream may still read the draws of the round before.
int64_t Engine::begin_round(int64_t round) {
  const int64_t first = round * partition().ranks, own = first + partition().rank;
  round_ = {.index = round, .last = round + 1 == rounds(), .computes = own < micro_batches()};
  parameters_->begin_micro_batch(round_);
  static_assert(offsetof(StepScalars, round) == offsetof(StepScalars, micro_batch) + sizeof(uint32_t));
  // Under `ordered` a round is folded contribution by contribution, from its first on; else each group adds one sum,
  // rounded with a draw of its own.
  const bool ordered = config_.parallel.reduction == Reduction::ordered;
  const int64_t group = ordered ? 0 : int64_t{partition().copy()} * partition().shards;
  const uint32_t draws[2] = {static_cast<uint32_t>(own), static_cast<uint32_t>(first + group)};
  backend_->copy_from_host(&scalars_->micro_batch, draws, sizeof(draws), stream());
  return round_.computes ? own : -1;
}

void Engine::run_round() {
  if (!round_.computes) return model_->stand_by(true);
  repeat(round_.index == 0 ? Piece::first_round : Piece::later_round, [this] {
    model_->forward();
    model_->backward();
  });
}

void Engine::set_signs(bool stop, bool save, bool shard_written) {
  static_assert(offsetof(StepScalars, save_requests) == offsetof(StepScalars, stop_requests) + sizeof(int64_t) &&
                offsetof(StepScalars, shards_written) == offsetof(StepScalars, stop_requests) + 2 * sizeof(int64_t));
  const int64_t signs[3] = {stop ? 1 : 0, save ? 1 : 0, shard_written ? 1 : 0};
  backend_->copy_from_host(&scalars_->stop_requests, signs, sizeof(signs), stream());
}

void Engine::update() {
  repeat(measure_ ? Piece::measured_update : Piece::update, [this] {
    parameters_->finish_beside();
    optimizer_->add_norm();
    sum_over_ranks();
    optimizer_->decide();
    optimizer_->step([this](int64_t part) { parameters_->updated(part); });
    parameters_->finish_update();
    if (!measure_) return;
    int64_t count = 0;
    const View sums = optimizer_->measure_sums(count);
    ranks_.group().all_reduce(sums, count, stream());  // copies have the same
  });
}

/// Loss and what ranks say of themselves are sums over all ranks, the norm one over the ranks that share a copy of the
/// gradient.
void Engine::sum_over_ranks() {
  constexpr int64_t kExactSum = sizeof(ExactSum) / sizeof(int64_t), kWords = 3;
  static_assert(offsetof(StepScalars, stop_requests) == offsetof(StepScalars, loss_sum) + sizeof(ExactSum));
  static_assert(offsetof(StepScalars, squared_norm) == offsetof(StepScalars, stop_requests) + kWords * sizeof(int64_t));
  const View loss{&scalars_->loss_sum, DType::int64}, norm{&scalars_->squared_norm, DType::int64};
  if (partition().copies() == 1) {
    ranks_.world().all_reduce(loss, kExactSum + kWords + kExactSum, stream());
  } else {
    ranks_.world().all_reduce(loss, kExactSum + kWords, stream());
    ranks_.group().all_reduce(norm, kExactSum, stream());
  }
}

// Collectives are not recorded: those of some transports need the host, and NCCL keeps a communicator until the last
// graph that uses it is gone.
void Engine::repeat(Piece piece, const std::function<void()>& work) {
  if (ranks_.world().calls()) return work();
  backend_->repeat(static_cast<uint64_t>(piece), stream(), work);
}

int64_t Engine::from_rank_0(int64_t value) {
  if (!ranks_.world().calls()) return value;
  parameters_->finish_beside();
  backend_->copy_from_host(&evaluation_->targets, &value, sizeof(value), stream());
  ranks_.world().broadcast({&evaluation_->targets, DType::int64}, 1, 0, stream());
  backend_->copy_to_host(&value, &evaluation_->targets, sizeof(value), stream());
  backend_->synchronize(stream());
  return value;
}

void Engine::begin_evaluation() { backend_->zero(evaluation_, sizeof(EvaluationSums), stream()); }

EvaluationSums Engine::add_evaluation(const EvaluationSums& own) {
  static_assert(offsetof(EvaluationSums, targets) == sizeof(ExactSum) &&
                sizeof(EvaluationSums) == sizeof(ExactSum) + 16);
  parameters_->finish_beside();
  backend_->copy_from_host(&evaluation_->targets, &own.targets, 2 * sizeof(int64_t), stream());
  ranks_.world().all_reduce({evaluation_, DType::int64}, sizeof(EvaluationSums) / sizeof(int64_t), stream());
  EvaluationSums sums;
  backend_->copy_to_host(&sums, evaluation_, sizeof(sums), stream());
  backend_->synchronize(stream());
  return sums;
}

StepScalars Engine::scalars() {
  StepScalars host;
  backend_->copy_to_host(&host, scalars_, sizeof(host), stream());
  backend_->synchronize(stream());
  return host;
}

}  // namespace dither
