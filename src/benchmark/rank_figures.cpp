#include "src/benchmark/rank_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>  // pair

#include "base/commit.h"
#include "base/error.h"
#include "src/benchmark/ceilings.h"  // fill_with_random()
#include "src/benchmark/random_steps.h"

namespace dither {

namespace {

constexpr int64_t kLittle = 1024;                      // elements: the call itself
constexpr int kWarmUp = 2, kSamples = 9, kFewest = 3;  // the same on all ranks, whatever their clocks say
constexpr int64_t kMostBytes = int64_t{64} << 20;  // of the data: two blocks of GPT-2 124M, more than a core's caches

using Call = std::function<void(View data, int64_t elements)>;

/// Each sample begins when all ranks are there.
CollectiveFigures measure(const std::string& name, const Call& call, View data, int64_t elements, Communicator& world,
                          Backend& backend) {
  const Stream stream = backend.stream();
  CollectiveFigures figures{.collective = name, .bytes = elements * size_of(data.type), .sent_bytes = 0, .timing = {}};
  std::vector<double> samples;
  for (int i = 0; i < kWarmUp + kSamples; ++i) {
    world.all_reduce(data, 1, stream);
    backend.synchronize(stream);
    const int64_t before = world.traffic().bytes;
    const double seconds = seconds_of([&] {
      call(data, elements);
      backend.synchronize(stream);
    });
    figures.sent_bytes = world.traffic().bytes - before;
    if (i >= kWarmUp) samples.push_back(seconds);
  }
  figures.timing = timing_of(samples);
  return figures;
}

/// FP32 sums and gatherings, on little data and on much.
std::vector<CollectiveFigures> measure_collectives(Communicator& world, Backend& backend, int64_t memory_bytes) {
  const int64_t size = world.size(), unit = size * kLeafElements;
  const int64_t most = std::min(memory_bytes, kMostBytes) / size_of(DType::fp32) / unit * unit;
  const Stream stream = backend.stream();
  void* memory = backend.allocate(most * size_of(DType::fp32));
  const View data{memory, DType::fp32};
  fill_with_random(backend, data, most, 0, 1);
  const auto own = [&](View all, int64_t elements) { return all.at(elements / size * world.rank()); };
  const std::vector<std::pair<const char*, Call>> calls = {
      {"all_reduce", [&](View d, int64_t n) { world.all_reduce(d, n, stream); }},
      {"reduce_scatter", [&](View d, int64_t n) { world.reduce_scatter(own(d, n), d, n / size, stream); }},
      {"all_gather", [&](View d, int64_t n) { world.all_gather(d, own(d, n), n / size, stream); }},
  };
  std::vector<CollectiveFigures> figures;
  for (const auto& [name, call] : calls) {
    for (const int64_t elements : {std::max<int64_t>(1, kLittle / size) * size, most}) {
      figures.push_back(measure(name, call, data, elements, world, backend));
    }
  }
  backend.free(memory);
  return figures;
}

void measure_steps(Engine& engine, double seconds, RankFigures& figures) {
  RandomSteps steps(engine);
  for (int i = 0; i < kWarmUp; ++i) steps.step();
  std::vector<double> whole, communication, rounds, updates;
  double spent = 0;
  for (bool more = true; more; more = engine.from_rank_0(spent < seconds || whole.size() < kFewest ? 1 : 0) != 0) {
    const double before = engine.ranks().traffic().seconds;
    const StepSeconds step = steps.step(true);
    whole.push_back(step.rounds + step.update);
    rounds.push_back(step.rounds / static_cast<double>(engine.rounds()));
    updates.push_back(step.update);
    communication.push_back(engine.ranks().traffic().seconds - before);
    spent += whole.back();
  }
  figures.step = timing_of(whole);
  if (!uses_cuda(engine.config())) figures.communication = timing_of(communication);  // on CUDA they only queue
  figures.micro_batch_seconds = timing_of(rounds).seconds;
  figures.update_seconds = timing_of(updates).seconds;
}

double bandwidth(const CollectiveFigures& much) {
  return static_cast<double>(much.sent_bytes) / much.timing.seconds;  // beside which a call takes nothing
}

/// What the figures come to, by the names of src/planning/inputs.h.
std::vector<std::pair<const char*, double>> plan_inputs(const RankFigures& figures) {
  if (figures.ranks == 1) {
    return {{"micro_batch_seconds", figures.micro_batch_seconds}, {"update_seconds", figures.update_seconds}};
  }
  const std::vector<CollectiveFigures>& c = figures.collectives;
  DITHER_ASSERT(c.size() == 6);
  return {{"call_seconds", c[0].timing.seconds},
          {"inside_sum_bytes_per_second", bandwidth(c[3])},
          {"inside_bytes_per_second", bandwidth(c[5])}};
}

}  // namespace

RankFigures measure_ranks(Engine& engine, const Effort& effort) {
  RankFigures figures;
  figures.config = engine.config();
  figures.ranks = engine.partition().ranks;
  figures.transport = engine.ranks().world().description();
  figures.device = engine.backend().description();
  engine.initialise();
  if (figures.ranks > 1) {
    engine.phase("collectives");
    figures.collectives = measure_collectives(engine.ranks().world(), engine.backend(), effort.memory_bytes);
  }
  measure_steps(engine, effort.step_seconds, figures);
  return figures;
}

std::string text_of(const RankFigures& figures) {
  std::string text =
      fmt::format("ranks        {}, transport {}\ndevice       {}\n", figures.ranks, figures.transport, figures.device);
  for (const CollectiveFigures& f : figures.collectives) {
    text +=
        fmt::format("{:<15} {:>8.3f} MiB  {:>9.3f} ms (spread {:.3f})  {:>7.3f} GB/s sent by a rank\n", f.collective,
                    static_cast<double>(f.bytes) / (1 << 20), f.timing.seconds * 1e3,
                    f.timing.interquartile_seconds * 1e3, static_cast<double>(f.sent_bytes) / f.timing.seconds * 1e-9);
  }
  text += fmt::format(
      "step         {:.1f} ms (spread {:.1f}, {} samples), {:.0f} tokens/s: rounds of {:.1f} ms, update {:.1f} ms\n",
      figures.step.seconds * 1e3, figures.step.interquartile_seconds * 1e3, figures.step.samples,
      figures.tokens_per_second(), figures.micro_batch_seconds * 1e3, figures.update_seconds * 1e3);
  if (figures.communication.samples > 0) {
    text +=
        fmt::format("in collectives {:.1f} ms, {:.1f} % of the step, waiting for other ranks included\n",
                    figures.communication.seconds * 1e3, 100 * figures.communication.seconds / figures.step.seconds);
  }
  text += "for plan    ";
  for (const auto& [name, value] : plan_inputs(figures)) text += fmt::format(" --input {}={:.4g}", name, value);
  return text + "\n";
}

std::string json_of(const RankFigures& figures) {
  const auto seconds = [](const Timing& timing) {
    return nlohmann::ordered_json{{"seconds", timing.seconds},
                                  {"interquartile_seconds", timing.interquartile_seconds},
                                  {"samples", timing.samples}};
  };
  nlohmann::ordered_json json = {{"commit", commit()},
                                 {"ranks", figures.ranks},
                                 {"transport", figures.transport},
                                 {"device", figures.device},
                                 {"tokens_per_step", figures.config.batch.tokens_per_step},
                                 {"tokens_per_second", figures.tokens_per_second()},
                                 {"step", seconds(figures.step)}};
  if (figures.communication.samples > 0) json["communication"] = seconds(figures.communication);
  for (const auto& [name, value] : plan_inputs(figures)) json["plan_inputs"][name] = value;
  for (const CollectiveFigures& f : figures.collectives) {
    nlohmann::ordered_json row = seconds(f.timing);
    row["collective"] = f.collective;
    row["bytes"] = f.bytes;
    row["sent_bytes"] = f.sent_bytes;
    json["collectives"].push_back(row);
  }
  return json.dump(2) + "\n";
}

}  // namespace dither
