#include "src/planning/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/counted.h"
#include "kernels/numerics/strategy.h"

namespace dither {

namespace {

using Json = nlohmann::ordered_json;

constexpr double kMiB = 1 << 20;

std::string mib(int64_t bytes) { return with_commas(static_cast<int64_t>(static_cast<double>(bytes) / kMiB + 0.5)); }

/// Milliseconds with three digits that count.
std::string ms(double seconds) {
  const double value = seconds * 1e3;
  return value >= 100 ? with_commas(static_cast<int64_t>(value + 0.5))
                      : fmt::format("{:.{}f}", value, value >= 10 ? 1 : 2);
}

int64_t sent(const StagePlan& stage, Purpose purpose) { return stage.sent_bytes[static_cast<size_t>(purpose)]; }

/// Cells of the table of stages, the heading first.
std::vector<std::vector<std::string>> table_of(const ScalePlan& plan) {
  std::vector<std::vector<std::string>> rows = {
      {"stage", "memory MiB", "fits", "gradients MiB", "weights MiB", "scalars B", "calls"}};
  const bool times = plan.inputs.has_times();
  if (times) {
    for (const char* column : {"compute ms", "comm. ms", "exposed ms", "step ms", "tokens/s", "efficiency"}) {
      rows[0].emplace_back(column);
    }
  }
  for (const StagePlan& s : plan.stages) {
    rows.push_back({fmt::format("{}{}", s.stage, s.chosen ? " *" : ""), mib(s.memory.total()),
                    plan.fits(s) ? "yes" : "no", mib(sent(s, Purpose::gradients)), mib(sent(s, Purpose::weights)),
                    with_commas(sent(s, Purpose::scalars)), with_commas(s.calls)});
    if (!times) continue;
    for (const double seconds :
         {s.time.compute_seconds, s.time.communication_seconds, s.time.exposed_seconds(), s.time.step_seconds}) {
      rows.back().push_back(ms(seconds));
    }
    rows.back().push_back(with_commas(static_cast<int64_t>(s.tokens_per_second + 0.5)));
    rows.back().push_back(fmt::format("{:.3f}", s.efficiency));
  }
  return rows;
}

std::string batch_of(const ScalePlan& plan) {
  const BatchConfig& batch = plan.config.batch;
  std::string text = fmt::format("{} = {} of {} x {}, in {} over {}", counted(batch.tokens_per_step, "token"),
                                 counted(plan.micro_batches, "micro-batch", "es"), batch.micro_batch_size,
                                 with_commas(plan.config.model.sequence_length), counted(plan.rounds, "round"),
                                 counted(plan.ranks, "rank"));
  const int64_t idle = plan.rounds * plan.ranks - plan.micro_batches;
  if (idle > 0) text += fmt::format("; {} idle in the last", counted(idle, "rank"));
  return text;
}

const char* name_of(Reduction reduction) {
  return reduction == Reduction::bf16 ? "bf16" : reduction == Reduction::fp32 ? "fp32" : "ordered";
}

std::string strategy_of(const ScalePlan& plan) {
  const ParallelConfig& p = plan.config.parallel;
  std::string text = fmt::format("{}, reduction {}, wire {}", strategy_info(plan.config.precision.strategy).name,
                                 name_of(p.reduction), p.wire == DType::bf16 ? "bf16" : "fp32");
  if (p.shard_group_size > 0) text += fmt::format(", shards over {} ranks", p.shard_group_size);
  return text;
}

std::string memory_line(const ScalePlan& plan) {
  const StagePlan& own = *std::find_if(plan.stages.begin(), plan.stages.end(), [](const auto& s) { return s.chosen; });
  // The parts as shown add up to the total shown.
  const auto rounded = [](int64_t bytes) { return static_cast<int64_t>(static_cast<double>(bytes) / kMiB + 0.5); };
  const int64_t weights = rounded(own.memory.parameters), gradients = rounded(own.memory.gradients);
  const int64_t state = rounded(own.memory.optimizer_state), activations = rounded(own.memory.activations);
  const int64_t workspace = rounded(own.memory.workspace);
  return fmt::format(
      "memory, MiB  weights {} + gradients {} + optimizer state {} + activations {} + workspace {} = {} of {}{} a "
      "rank: "
      "{}\n",
      with_commas(weights), with_commas(gradients), with_commas(state), with_commas(activations),
      with_commas(workspace), with_commas(weights + gradients + state + activations + workspace),
      with_commas(static_cast<int64_t>(plan.inputs.memory_bytes / kMiB)),
      plan.inputs.memory_limit.empty() ? "" : " free (" + plan.inputs.memory_limit + ")",
      plan.fits(own) ? "fits" : "does NOT fit");
}

std::string value_of(double value) { return fmt::format("{:.6g}", value); }

/// Whether a prediction for this plan has looked at the input.
bool matters(const InputKey& key, const ScalePlan& plan) {
  const bool of_cpu_ranks =
      key.field == &Inputs::cores || key.field == &Inputs::threads || key.field == &Inputs::busy_slowdown;
  const bool of_nodes = key.field == &Inputs::between_bytes_per_second || key.field == &Inputs::between_hop_seconds ||
                        key.field == &Inputs::tree_hop_seconds;
  if (of_cpu_ranks) return plan.inputs.cores > 0;
  if (of_nodes) return plan.ranks > plan.inputs.ranks_per_node;
  return plan.inputs.*key.field != 0;
}

std::string inputs_of(const ScalePlan& plan) {
  std::string text = "predicted from (--input NAME=VALUE changes one; docs/scaling.md says where they come from)\n";
  for (const InputKey& key : input_keys()) {
    const double value = plan.inputs.*key.field;
    if (!matters(key, plan)) continue;
    text += fmt::format("  {:<28}{:>12} {:<7} {}\n", key.name, value_of(value), key.unit, key.meaning);
  }
  return text;
}

}  // namespace

std::string text_of(const ScalePlan& plan) {
  const bool times = plan.inputs.has_times();
  std::string text = fmt::format("model        {} parameters, {}\n", with_commas(plan.parameters), strategy_of(plan));
  text += fmt::format("batch        {}\n", batch_of(plan));
  text += fmt::format("ranks        {}, {} a node, device {}\n", with_commas(plan.ranks), plan.inputs.ranks_per_node,
                      plan.device);
  text += memory_line(plan);
  text += fmt::format("\nZeRO stages, * the config's: memory of a rank, what it sends in a step{}\n",
                      times ? ", and predicted times" : "");
  const auto rows = table_of(plan);
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) {
      text += c == 0 ? fmt::format("  {:<{}}", row[c], widths[c]) : fmt::format("  {:>{}}", row[c], widths[c]);
    }
    text += "\n";
  }
  if (!times) {
    return text +
           "\nno times: nothing says how fast this device computes\n       cures: --tokens-per-second of one rank, "
           "--input micro_batch_seconds=... and update_seconds=..., or --device h100\n";
  }
  text += fmt::format(
      "one rank alone: step {} ms, {} tokens/s ({}); efficiency is of {} such\n", ms(plan.one_rank_step_seconds),
      with_commas(static_cast<int64_t>(
          static_cast<double>(plan.config.batch.tokens_per_step) / plan.one_rank_step_seconds + 0.5)),
      plan.inputs.one_rank_step_seconds > 0 || plan.inputs.micro_batch_seconds > 0 ? "as measured" : "predicted",
      plan.ranks);
  return text + "\n" + inputs_of(plan);
}

std::string markdown_of(const ScalePlan& plan) {
  std::string text = fmt::format("{} parameters, {}; {}; device {}, {} a node. Predictions, not measurements.\n\n",
                                 with_commas(plan.parameters), strategy_of(plan), batch_of(plan), plan.device,
                                 plan.inputs.ranks_per_node);
  const auto rows = table_of(plan);
  for (size_t r = 0; r < rows.size(); ++r) {
    text += "|";
    for (const std::string& cell : rows[r]) text += " " + (cell.ends_with(" *") ? cell.substr(0, 1) : cell) + " |";
    text += "\n";
    if (r > 0) continue;
    text += "|";
    for (size_t c = 0; c < rows[0].size(); ++c) text += c == 0 ? "---|" : "---:|";
    text += "\n";
  }
  return text;
}

std::string json_of(const ScalePlan& plan) {
  Json json = {{"device", plan.device},
               {"ranks", plan.ranks},
               {"parameters", plan.parameters},
               {"strategy", strategy_info(plan.config.precision.strategy).name},
               {"tokens_per_step", plan.config.batch.tokens_per_step},
               {"micro_batches", plan.micro_batches},
               {"rounds", plan.rounds}};
  for (const InputKey& key : input_keys()) json["inputs"][key.name] = plan.inputs.*key.field;
  json["inputs"]["memory_limit"] = plan.inputs.memory_limit;
  const bool times = plan.inputs.has_times();
  if (times) json["one_rank_step_seconds"] = plan.one_rank_step_seconds;
  for (const StagePlan& s : plan.stages) {
    Json row = {{"zero_stage", s.stage},
                {"chosen", s.chosen},
                {"fits", plan.fits(s)},
                {"memory_bytes",
                 {{"weights", s.memory.parameters},
                  {"gradients", s.memory.gradients},
                  {"optimizer_state", s.memory.optimizer_state},
                  {"activations", s.memory.activations},
                  {"workspace", s.memory.workspace},
                  {"total", s.memory.total()}}},
                {"sent_bytes",
                 {{"gradients", sent(s, Purpose::gradients)},
                  {"weights", sent(s, Purpose::weights)},
                  {"scalars", sent(s, Purpose::scalars)}}},
                {"collective_calls", s.calls}};
    if (times) {
      row["predicted"] = {
          {"compute_seconds", s.time.compute_seconds},   {"communication_seconds", s.time.communication_seconds},
          {"exposed_seconds", s.time.exposed_seconds()}, {"step_seconds", s.time.step_seconds},
          {"tokens_per_second", s.tokens_per_second},    {"efficiency", s.efficiency}};
    }
    json["stages"].push_back(row);
  }
  return json.dump(2) + "\n";
}

std::string inputs_page() {
  std::string text = "| input | unit | meaning |\n|---|---|---|\n";
  for (const InputKey& key : input_keys()) text += fmt::format("| `{}` | {} | {} |\n", key.name, key.unit, key.meaning);
  text +=
      "\n| device | BF16 FLOP/s | FP32 FLOP/s | memory, B/s | memory, bytes | source "
      "|\n|---|---:|---:|---:|---:|---|\n";
  const auto or_measured = [](double value) { return value > 0 ? value_of(value) : std::string("measured"); };
  for (const DeviceInputs& d : known_devices()) {
    text +=
        fmt::format("| `{}` | {} | {} | {} | {} | {} |\n", d.name, or_measured(d.bf16_flop_per_second),
                    or_measured(d.fp32_flop_per_second), value_of(d.memory_bytes_per_second),
                    d.memory_bytes > 0 ? with_commas(static_cast<int64_t>(d.memory_bytes)) : "the machine's", d.source);
  }
  text += "\n| link | bytes/s | hop, us | of a tree | where | source |\n|---|---:|---:|---:|---|---|\n";
  for (const LinkInputs& l : known_links()) {
    text += fmt::format("| `{}` | {} | {} | {} | {}, a {} | {} |\n", l.name, value_of(l.bytes_per_second),
                        value_of(l.hop_seconds * 1e6), value_of(l.tree_hop_seconds * 1e6),
                        l.between ? "between nodes" : "inside a node", l.per_node ? "node" : "rank", l.source);
  }
  return text;
}

}  // namespace dither
