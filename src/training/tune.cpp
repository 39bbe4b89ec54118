#include "src/training/tune.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/numerics/philox.h"
#include "src/training/engine.h"

namespace dither {

namespace {

/// Token ids, all equally likely: tables of zeros would flatter.
std::vector<int32_t> random_tokens(int64_t count, const Config& config, uint32_t tensor) {
  const NoiseId id{config.seed, tensor, 0, RandomStream::sampling, 0};
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    tokens[static_cast<size_t>(i)] =
        static_cast<int32_t>(random_word(id, i) % static_cast<uint64_t>(config.model.vocabulary));
  }
  return tokens;
}

}  // namespace

std::string tune(const Config& config) {
  std::unique_ptr<Backend> backend = make_backend(config);
  backend->tune(true);
  Engine engine(config, std::move(backend));
  engine.initialise();
  const int64_t B = config.batch.micro_batch_size, T = config.model.sequence_length;
  const std::vector<int32_t> tokens = random_tokens(B * T, config, 0), targets = random_tokens(B * T, config, 1);
  StepScalars scalars;
  scalars.step = 1;
  scalars.set_targets(B * T);
  scalars.loss_limit = scalars.norm_limit = INFINITY;
  engine.begin_step(scalars, false);
  for (int64_t round = 0; round < std::min<int64_t>(2, engine.rounds()); ++round) {  // the first is formed anew
    engine.begin_round(round);
    engine.model().load(tokens.data(), targets.data(), B, T);
    engine.run_round();
  }
  engine.model().evaluate(engine.evaluation_sum());
  engine.backend().synchronize(engine.stream());
  return engine.backend().algorithms();
}

}  // namespace dither
