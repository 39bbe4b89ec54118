// ZeRO (Rajbhandari et al., arXiv 1910.02054): which implementation of Parameters a config asks for, and what it takes.
#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "src/model/memory_plan.h"
#include "src/model/parameters.h"
#include "src/parallel/zero/options.h"
#include "src/parallel/zero/rank_groups.h"

namespace dither {

/// Weights and gradients of this rank; the table is padded for all ranks. All arguments must outlive them. Throws Error
/// when memory is short.
std::unique_ptr<Parameters> make_parameters(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks,
                                            Backend& backend, const StepScalars* scalars);

/// Adds what they would allocate, and returns what they would own, without views: for the optimizer's plan.
std::vector<OwnedPart> plan_parameters(const ParameterTable& table, const ZeroOptions& options,
                                       const Partition& partition, MemoryPlan& plan);

}  // namespace dither
