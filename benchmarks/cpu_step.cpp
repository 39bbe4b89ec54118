// Times whole training steps of a config on random tokens, with the share of every operation.
//
//   bench_cpu_step CONFIG [--set key=value]...     needs no data: tokens are drawn at random
//
// Prints tokens/s of each step (the first ones warm up caches of products), their median, the share of the median step
// that each operation takes, and the share of the matrix products in all.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "base/error.h"
#include "benchmarks/timed_backend.h"
#include "src/training/engine.h"
#include "src/training/matrix_peak.h"

namespace dither {

namespace {

constexpr int kWarmUp = 2;
constexpr int kMeasured = 5;

class RandomBatch {
 public:
  RandomBatch(int64_t tokens, int64_t vocabulary) : generator_(1), id_(0, static_cast<int32_t>(vocabulary - 1)) {
    values_.resize(static_cast<size_t>(tokens));
  }
  const int32_t* next() {
    for (int32_t& v : values_) v = id_(generator_);
    return values_.data();
  }

 private:
  std::mt19937 generator_;
  std::uniform_int_distribution<int32_t> id_;
  std::vector<int32_t> values_;
};

double step_seconds(Engine& engine, RandomBatch& inputs, RandomBatch& targets, uint32_t step) {
  const Config& config = engine.config();
  const auto begin = std::chrono::steady_clock::now();
  StepScalars s;
  s.learning_rate = static_cast<float>(config.optimizer.learning_rate);
  s.bias1 = static_cast<float>(1 - std::pow(config.optimizer.betas[0], step));
  s.bias2 = static_cast<float>(1 - std::pow(config.optimizer.betas[1], step));
  s.step = step;
  s.loss_scale = 1.0f / static_cast<float>(config.batch.tokens_per_step);
  s.largest_norm = config.optimizer.gradient_clip;
  s.loss_limit = s.norm_limit = INFINITY;
  engine.optimizer().begin_step(s, false);
  for (int64_t i = 0; i < engine.micro_batches(); ++i) {
    engine.set_micro_batch(static_cast<uint32_t>(i));
    engine.parameters().begin_micro_batch(i);
    engine.model().load(inputs.next(), targets.next(), config.batch.micro_batch_size, config.model.sequence_length);
    engine.model().forward();
    engine.model().backward();
  }
  engine.optimizer().clip();
  engine.optimizer().step();
  engine.backend().synchronize(engine.stream());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void run(const std::string& path, const std::vector<std::string>& assignments) {
  std::vector<std::string> warnings;
  const Config config = load_config(path, assignments, warnings);
  auto timed = std::make_unique<TimedBackend>(make_backend(config));
  TimedBackend& timer = *timed;
  const double peak = measure_matrix_peak(timer, config.precision.compute);
  Engine engine(config, std::move(timed));
  engine.optimizer().initialise();
  const int64_t tokens = int64_t{config.batch.micro_batch_size} * config.model.sequence_length;
  RandomBatch inputs(tokens, config.model.vocabulary), targets(tokens, config.model.vocabulary);

  fmt::print("{}  {}  {} parameters, strategy {}, micro-batch {} x {}, {} micro-batches a step\n", path,
             timer.description(), engine.table().counted_elements(), strategy_info(config.precision.strategy).name,
             config.batch.micro_batch_size, config.model.sequence_length, engine.micro_batches());
  struct Step {
    double seconds;
    std::map<std::string, double> parts;
  };
  std::vector<Step> steps;
  for (uint32_t step = 1; step <= kWarmUp + kMeasured; ++step) {
    timer.reset();
    const double seconds = step_seconds(engine, inputs, targets, step);
    fmt::print("step {}{}: {:.3f} s, {:.1f} tokens/s\n", step, step <= kWarmUp ? " (warm-up)" : "", seconds,
               static_cast<double>(config.batch.tokens_per_step) / seconds);
    std::fflush(stdout);
    if (step > kWarmUp) steps.push_back({seconds, timer.seconds()});
  }
  std::sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.seconds < b.seconds; });
  const Step& median = steps[steps.size() / 2];

  std::vector<std::pair<double, std::string>> parts;
  double products = 0;
  for (const auto& [name, seconds] : median.parts) {
    parts.emplace_back(seconds, name);
    if (name.rfind("linear", 0) == 0) products += seconds;
  }
  std::sort(parts.rbegin(), parts.rend());
  for (const auto& [seconds, name] : parts) {
    if (seconds > 0.001 * median.seconds) {
      fmt::print("  {:26} {:8.1f} ms {:5.1f} %\n", name, 1e3 * seconds, 100 * seconds / median.seconds);
    }
  }
  const double rate = static_cast<double>(config.batch.tokens_per_step) / median.seconds;
  const double flop = Model::flop_per_token(config.model, engine.table().counted_elements());
  fmt::print("median {:.3f} s, {:.1f} tokens/s; matrix products take {:.1f} % of the step\n", median.seconds, rate,
             100 * products / median.seconds);
  fmt::print("{:.3f} TFLOP/s of {:.3f} measured on a large product: {:.1f} %\n", rate * flop / 1e12, peak / 1e12,
             100 * rate * flop / peak);
}

}  // namespace

}  // namespace dither

int main(int argc, char** argv) {
  std::vector<std::string> assignments;
  for (int i = 2; i + 1 < argc; i += 2) assignments.emplace_back(argv[i + 1]);
  if (argc < 2 || argc % 2 != 0) {
    std::fputs("usage: bench_cpu_step CONFIG [--set key=value]...\n", stderr);
    return 2;
  }
  try {
    dither::run(argv[1], assignments);
  } catch (const dither::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 2;
  }
  return 0;
}
