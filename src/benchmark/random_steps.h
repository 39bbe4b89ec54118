// Training steps on random tokens: what Trainer does, without a corpus.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "src/training/engine.h"

namespace dither {

/// Where the time of a step went.
struct StepSeconds {
  double rounds = 0, update = 0;
};

class RandomSteps {
 public:
  /// The engine must outlive it, its weights must be initialised.
  explicit RandomSteps(Engine& engine);

  /// What Trainer::step() gives to the backend, with random tokens in the place of a corpus, and the wait for its end.
  /// `apart`: it also waits for the rounds before the update; else a GPU may do the end of one within the time of the
  /// other. On several ranks all call it.
  StepSeconds step(bool apart = false);

 private:
  const int32_t* next_tokens();

  Engine& engine_;
  std::mt19937 generator_{1};
  std::uniform_int_distribution<int32_t> draw_;
  std::vector<int32_t> tokens_;  // of a micro-batch, all ids equally likely
  uint32_t step_ = 0;
};

}  // namespace dither
