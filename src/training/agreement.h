// Whether all ranks are about to compute the same run: config, data, program and device, compared before the first
// step.
#pragma once

#include <string>

#include "kernels/backend.h"
#include "src/config/config.h"
#include "src/data/token_shards.h"
#include "src/parallel/control.h"

namespace dither {

/// What to warn of where ranks have no micro-batch in any step; "" where each has one.
std::string idle_ranks_warning(const Config& config, int ranks);

/// All ranks call each of these. Throws Error on every rank, naming the first that differs from rank 0 and in what.

void demand_same_config(Control& control, const Config& config);
void demand_same_program(Control& control);
/// `what` names the shards in the message: "training data".
void demand_same_data(Control& control, const TokenShards& shards, const std::string& what);
/// `tokenizer`: its fingerprint, "" for none; prompts and samples depend on it.
void demand_same_tokenizer(Control& control, const std::string& tokenizer);
/// Under parallel.reduction "ordered" all ranks compute with the same arithmetic; two ranks use one GPU only where
/// parallel.share_device says so.
void demand_fitting_devices(Control& control, const Config& config, const Backend& backend);

}  // namespace dither
