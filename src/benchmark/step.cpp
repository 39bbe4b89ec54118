// Whole steps one after the other, then one with its parts.
#include "src/benchmark/step.h"

#include <vector>

#include "src/benchmark/random_steps.h"

namespace dither {

namespace {

constexpr int kWarmUp = 2;  // products are prepared, and a GPU records what it will replay
constexpr size_t kFewest = 3;

}  // namespace

double StepFigures::floor_seconds() const {
  double sum = 0;
  for (const auto& [operation, part] : parts) sum += part.floor_seconds;
  return sum;
}

StepFigures measure_step(Engine& engine, TimedBackend& backend, const Ceilings& ceilings, double seconds) {
  engine.initialise();
  RandomSteps steps(engine);
  const auto seconds_of_step = [&] {
    const StepSeconds step = steps.step();
    return step.rounds + step.update;
  };
  for (int i = 0; i < kWarmUp; ++i) seconds_of_step();
  std::vector<double> samples;
  for (double spent = 0; samples.size() < kFewest || spent < seconds; spent += samples.back()) {
    samples.push_back(seconds_of_step());
  }
  StepFigures figures;
  figures.timing = timing_of(samples);
  backend.start(ceilings);
  figures.timed_seconds = seconds_of_step();
  figures.parts = backend.stop();
  figures.tokens = engine.config().batch.tokens_per_step;
  figures.flop = static_cast<double>(figures.tokens) *
                 Model::flop_per_token(engine.config().model, engine.table().counted_elements());
  return figures;
}

}  // namespace dither
