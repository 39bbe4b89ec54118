#include "src/training/engine.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>

#include "base/error.h"

namespace dither {

namespace {

PlainParameters::Options parameter_options(const Config& config) {
  return {.weight = strategy_info(config.precision.strategy).weight,
          .gradient = config.precision.gradient,
          .micro_batches = config.batch.tokens_per_step / config.model.sequence_length / config.batch.micro_batch_size,
          .seed = config.seed};
}

/// What the backend holds already is part of the plan.
void check_fit(const MemoryPlan& plan, const Backend& backend) {
  const int64_t available = backend.free_bytes() < 0 ? -1 : backend.free_bytes() + backend.allocated_bytes();
  if (available < 0 || plan.total() <= available) return;
  constexpr double kMiB = 1 << 20;
  throw Error(fmt::format(
      "the model does not fit: weights {:.0f} + gradients {:.0f} + optimizer state {:.0f} + activations {:.0f} + "
      "workspace {:.0f} = {:.0f} MiB, and {:.0f} MiB of memory are free\n       cures: a smaller "
      "batch.micro_batch_size or "
      "model.sequence_length, a strategy with fewer bytes a parameter, a smaller model",
      plan.parameters / kMiB, plan.gradients / kMiB, plan.optimizer_state / kMiB, plan.activations / kMiB,
      plan.workspace / kMiB, plan.total() / kMiB, available / kMiB));
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) throw Error(path + " cannot be read: algorithms names a table that dither tune has made");
  return text;
}

}  // namespace

bool uses_cuda(const Config& config) {
  return config.device == "cuda" || (config.device == "auto" && cuda_devices() > 0);
}

std::unique_ptr<Backend> make_backend(const Config& config) {
  auto backend = uses_cuda(config) ? make_cuda_backend(0) : make_cpu_backend(config.parallel.threads);
  if (!config.algorithms.empty()) backend->use_algorithms(text_of(config.algorithms), config.algorithms);
  return backend;
}

MemoryPlan Engine::plan(const Config& config) {
  const ParameterTable table(config);
  MemoryPlan plan;
  plan.workspace += sizeof(StepScalars) + sizeof(ExactSum);
  if (uses_cuda(config)) plan.workspace += cuda_workspace_bytes();
  PlainParameters::plan(table, parameter_options(config), plan);
  Optimizer::plan(config, table, plan);
  Model::plan(config, plan);
  return plan;
}

Engine::Engine(const Config& config) : Engine(config, make_backend(config)) {}

Engine::Engine(const Config& config, std::unique_ptr<Backend> backend)
    : config_(config), table_(config), backend_(std::move(backend)) {
  check_fit(plan(config_), *backend_);
  scalars_ = static_cast<StepScalars*>(backend_->allocate(sizeof(StepScalars)));
  evaluation_sum_ = static_cast<ExactSum*>(backend_->allocate(sizeof(ExactSum)));
  parameters_ = std::make_unique<PlainParameters>(table_, parameter_options(config_), *backend_, scalars_, stream());
  optimizer_ = std::make_unique<Optimizer>(config_, table_, parameters_->weights(), parameters_->gradients(), *backend_,
                                           scalars_, stream());
  model_ = std::make_unique<Model>(config_, table_, *parameters_, *backend_, scalars_, stream());
}

Engine::~Engine() {
  backend_->free(scalars_);
  backend_->free(evaluation_sum_);
}

void Engine::set_micro_batch(uint32_t index) {
  backend_->copy_from_host(&scalars_->micro_batch, &index, sizeof(index), stream());
}

StepScalars Engine::scalars() {
  StepScalars host;
  backend_->copy_to_host(&host, scalars_, sizeof(host), stream());
  backend_->synchronize(stream());
  return host;
}

}  // namespace dither
