// Training steps on random tokens: what Trainer does, without a corpus.
#include "src/benchmark/step.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace dither {

namespace {

constexpr int kWarmUp = 2;  // products are prepared, and a GPU records what it will replay
constexpr size_t kFewest = 3;

/// Token ids of one micro-batch, all equally likely.
class RandomTokens {
 public:
  RandomTokens(int64_t tokens, int64_t vocabulary)
      : draw_(0, static_cast<int32_t>(vocabulary - 1)), values_(static_cast<size_t>(tokens)) {}
  const int32_t* next() {
    for (int32_t& value : values_) value = draw_(generator_);
    return values_.data();
  }

 private:
  std::mt19937 generator_{1};
  std::uniform_int_distribution<int32_t> draw_;
  std::vector<int32_t> values_;
};

/// What Trainer::step() gives to the backend, with random tokens in the place of a corpus.
class RandomSteps {
 public:
  explicit RandomSteps(Engine& engine)
      : engine_(engine), tokens_(tokens_of(engine.config()), engine.config().model.vocabulary) {}

  double seconds() {
    return seconds_of([&] {
      step();
      engine_.backend().synchronize(engine_.stream());
    });
  }

 private:
  enum class Piece : uint8_t { first_micro_batch, later_micro_batch, update };

  static int64_t tokens_of(const Config& config) {
    return int64_t{config.batch.micro_batch_size} * config.model.sequence_length;
  }

  void step() {
    const Config& config = engine_.config();
    ++step_;
    StepScalars s;
    s.learning_rate = static_cast<float>(config.optimizer.learning_rate);
    s.bias1 = static_cast<float>(1 - std::pow(config.optimizer.betas[0], step_));
    s.bias2 = static_cast<float>(1 - std::pow(config.optimizer.betas[1], step_));
    s.step = step_;
    s.loss_scale = 1.0f / static_cast<float>(config.batch.tokens_per_step);
    s.largest_norm = config.optimizer.gradient_clip;
    s.loss_limit = s.norm_limit = std::numeric_limits<double>::infinity();
    engine_.optimizer().begin_step(s, false);
    for (int64_t i = 0; i < engine_.micro_batches(); ++i) micro_batch(i);
    repeat(Piece::update, [&] {
      engine_.optimizer().clip();
      engine_.optimizer().step();
    });
  }

  void micro_batch(int64_t index) {
    const Config& config = engine_.config();
    engine_.set_micro_batch(static_cast<uint32_t>(index));
    engine_.parameters().begin_micro_batch(index);
    const int32_t* tokens = tokens_.next();  // targets are as random as their tokens: the work is the same
    engine_.model().load(tokens, tokens, config.batch.micro_batch_size, config.model.sequence_length);
    repeat(index == 0 ? Piece::first_micro_batch : Piece::later_micro_batch, [&] {
      engine_.model().forward();
      engine_.model().backward();
    });
  }

  void repeat(Piece piece, const std::function<void()>& work) {
    engine_.backend().repeat(static_cast<uint64_t>(piece), engine_.stream(), work);
  }

  Engine& engine_;
  RandomTokens tokens_;
  uint32_t step_ = 0;
};

}  // namespace

double StepFigures::floor_seconds() const {
  double sum = 0;
  for (const auto& [operation, part] : parts) sum += part.floor_seconds;
  return sum;
}

StepFigures measure_step(Engine& engine, TimedBackend& backend, const Ceilings& ceilings, double seconds) {
  engine.optimizer().initialise();
  RandomSteps steps(engine);
  for (int i = 0; i < kWarmUp; ++i) steps.seconds();
  std::vector<double> samples;
  for (double spent = 0; samples.size() < kFewest || spent < seconds; spent += samples.back()) {
    samples.push_back(steps.seconds());
  }
  StepFigures figures;
  figures.timing = timing_of(samples);
  backend.start(ceilings);
  figures.timed_seconds = steps.seconds();
  figures.parts = backend.stop();
  figures.tokens = engine.config().batch.tokens_per_step;
  figures.flop = static_cast<double>(figures.tokens) *
                 Model::flop_per_token(engine.config().model, engine.table().counted_elements());
  return figures;
}

}  // namespace dither
