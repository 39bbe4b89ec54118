#include "src/benchmark/random_steps.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "src/benchmark/timing.h"

namespace dither {

RandomSteps::RandomSteps(Engine& engine)
    : engine_(engine),
      draw_(0, static_cast<int32_t>(engine.config().model.vocabulary - 1)),
      tokens_(static_cast<size_t>(int64_t{engine.config().batch.micro_batch_size} *
                                  engine.config().model.sequence_length)) {}

const int32_t* RandomSteps::next_tokens() {
  for (int32_t& token : tokens_) token = draw_(generator_);
  return tokens_.data();
}

StepSeconds RandomSteps::step(bool apart) {
  const Config& config = engine_.config();
  ++step_;
  StepScalars s;
  s.learning_rate = static_cast<float>(config.optimizer.learning_rate);
  s.bias1 = static_cast<float>(1 - std::pow(config.optimizer.betas[0], step_));
  s.bias2 = static_cast<float>(1 - std::pow(config.optimizer.betas[1], step_));
  s.step = step_;
  s.set_targets(config.batch.tokens_per_step);
  s.largest_norm = config.optimizer.gradient_clip;
  s.loss_limit = s.norm_limit = std::numeric_limits<double>::infinity();
  StepSeconds seconds;
  seconds.rounds = seconds_of([&] {
    engine_.begin_step(s, false);
    for (int64_t round = 0; round < engine_.rounds(); ++round) {
      engine_.phase(fmt::format("step {}: round {} of {}", step_, round + 1, engine_.rounds()));
      if (engine_.begin_round(round) >= 0) {
        const int32_t* tokens = next_tokens();  // targets are as random as their tokens: the work is the same
        engine_.model().load(tokens, tokens, config.batch.micro_batch_size, config.model.sequence_length);
      }
      engine_.run_round();
    }
    if (apart) engine_.backend().synchronize(engine_.stream());
  });
  engine_.phase(fmt::format("step {}: update", step_));
  seconds.update = seconds_of([&] {
    engine_.update();
    engine_.backend().synchronize(engine_.stream());
  });
  return seconds;
}

}  // namespace dither
