// The state of a checkpoint into an optimizer's parts, whoever wrote it: any number of ranks and any ZeRO stage on
// either side, since both are addressed by (parameter, element range). Files are mapped and copied range by range: no
// rank holds more than its own.
#pragma once

#include <functional>
#include <string>

#include "kernels/backend.h"
#include "src/checkpoint/manifest.h"
#include "src/config/config.h"
#include "src/optimizer/optimizer.h"

namespace dither {

/// Sets every element that `optimizer` owns. Where `saved`, the config in the manifest, stores parameters otherwise
/// than `config` (another strategy, moments or fp32_parameters), values are converted (conversion.h). Of learned
/// positions a shorter sequence takes the first. Throws Error,
/// before anything is set: a parameter missing, left over or of another shape, elements missing or twice, another type,
/// another model whose shapes happen to fit.
/// `progress` is called now and then.
void load_state(const std::string& checkpoint, const Manifest& manifest, const Config& saved, const Config& config,
                const ParameterTable& table, Optimizer& optimizer, Backend& backend, Stream stream,
                const std::function<void()>& progress = {});

}  // namespace dither
