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
  engine.optimizer().initialise();
  const int64_t B = config.batch.micro_batch_size, T = config.model.sequence_length;
  const std::vector<int32_t> tokens = random_tokens(B * T, config, 0), targets = random_tokens(B * T, config, 1);
  StepScalars scalars;
  scalars.step = 1;
  scalars.loss_scale = 1.0f / static_cast<float>(B * T);
  scalars.loss_limit = scalars.norm_limit = INFINITY;
  engine.optimizer().begin_step(scalars, false);
  for (int64_t index = 0; index < std::min<int64_t>(2, engine.micro_batches()); ++index) {  // the first is formed anew
    engine.set_micro_batch(static_cast<uint32_t>(index));
    engine.parameters().begin_micro_batch(index);
    engine.model().load(tokens.data(), targets.data(), B, T);
    engine.model().forward();
    engine.model().backward();
  }
  engine.model().evaluate(engine.evaluation_sum());
  engine.backend().synchronize(engine.stream());
  return engine.backend().algorithms();
}

}  // namespace dither
