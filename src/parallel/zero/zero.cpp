#include "src/parallel/zero/zero.h"

#include "src/model/plain_parameters.h"
#include "src/parallel/zero/exchanged_parameters.h"
#include "src/parallel/zero/owned_parts.h"
#include "src/parallel/zero/reduced_parameters.h"

namespace dither {

namespace {

enum class Kind { plain, reduced, exchanged };

Kind kind_of(const ZeroOptions& options, const Partition& partition) {
  if (options.reduction == Reduction::ordered) return Kind::exchanged;
  if (partition.ranks == 1) return Kind::plain;
  return options.stage >= 2 ? Kind::exchanged : Kind::reduced;
}

PlainParameters::Options plain_options(const ZeroOptions& o) {
  return {.weight = o.weight, .gradient = o.gradient, .micro_batches = o.micro_batches, .seed = o.seed};
}

}  // namespace

ZeroOptions zero_options(const Config& config) {
  return {.stage = config.parallel.zero_stage,
          .reduction = config.parallel.reduction,
          .wire = config.parallel.wire,
          .weight = strategy_info(config.precision.strategy).weight,
          .gradient = config.precision.gradient,
          .micro_batches = config.batch.tokens_per_step / config.model.sequence_length / config.batch.micro_batch_size,
          .seed = config.seed};
}

std::unique_ptr<Parameters> make_parameters(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks,
                                            Backend& backend, const StepScalars* scalars) {
  switch (kind_of(options, ranks.partition())) {
    case Kind::plain:
      return std::make_unique<PlainParameters>(table, plain_options(options), backend, scalars, backend.stream());
    case Kind::reduced:
      return std::make_unique<ReducedParameters>(table, options, ranks, backend, scalars);
    case Kind::exchanged:
      break;
  }
  return std::make_unique<ExchangedParameters>(table, options, ranks, backend, scalars);
}

std::vector<OwnedPart> plan_parameters(const ParameterTable& table, const ZeroOptions& options,
                                       const Partition& partition, MemoryPlan& plan) {
  switch (kind_of(options, partition)) {
    case Kind::plain:
      PlainParameters::plan(table, plain_options(options), plan);
      return PlainParameters::owned_parts(table);
    case Kind::reduced:
      ReducedParameters::plan(table, options, partition, plan);
      break;
    case Kind::exchanged:
      ExchangedParameters::plan(table, options, partition, plan);
      break;
  }
  return owned_parts(table, partition);
}

}  // namespace dither
