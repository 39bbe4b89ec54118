// A hundred steps of every strategy over a flat array: two micro-batches accumulated, the global norm, the decision
// with clipping, the update. The state at the end is compared with a hash of the CPU's: every backend gives those bits.

#include <map>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/catch.h"
#include "tests/kernels/strategy_state.h"
#include "tests/kernels/test_backend.h"

namespace dither {
namespace {

constexpr uint32_t kSteps = 100;

/// FNV-1a of every array of the state and of the last step's norm, after kSteps steps on the CPU. A change of a
/// strategy's rule, of a draw or of the order of a sum changes them; nothing else may.
const std::map<std::string, std::string> kHashes = {
    {"fp32", "91a6badf56d2d10f"},
    {"bf16", "9e4bded24b3d0cc0"},
    {"bf16_sr", "b5f79538dcfaabb9"},
    {"bf16_kahan", "cc52cb3d73906266"},
    {"collage_light", "ff324e615363f377"},
    {"collage_plus", "2d597b531c75a30b"},
    {"bf16_fp32_states", "3c20faf3ad854e1f"},
    {"split32", "58104158a6ee4105"},
    {"mixed", "b64060665fb60f5e"},
    {"mixed_autocast", "91a6badf56d2d10f"},  // fp32's rule and types
};

/// Two tensors, one of which ends inside a leaf.
std::vector<Segment> two_tensors() {
  return {{.offset = 0, .count = 1'300, .first = 0, .tensor = 7, .group = 0, .decay = true},
          {.offset = 2 * kLeafElements, .count = 200, .first = 0, .tensor = 3, .group = 1, .decay = false}};
}

/// FNV-1a, 64 bits, as hexadecimal digits.
std::string hash_of(const std::string& bytes) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3u;
  std::string text(16, '0');
  for (size_t i = 0; i < 16; ++i) text[i] = "0123456789abcdef"[hash >> (60 - 4 * i) & 15];
  return text;
}

/// Gradients whose sizes wander over the steps, so that some steps are clipped and others are not.
TestTensor contribution(uint32_t step, uint32_t micro_batch) {
  return normal_tensor(DType::fp32, kFlatElements / 12, 100 + 2 * step + micro_batch, 2e-2 * (1 + step % 7));
}

class Run {
 public:
  explicit Run(Strategy strategy)
      : backend_(test_backend(2)), state_(strategy), gradient_(state_.info.gradient, kFlatElements / 12) {}

  std::string hash_after(uint32_t steps) {
    for (uint32_t step = 1; step <= steps; ++step) take(step);
    std::string bytes;
    const auto add = [&](const void* data, int64_t count) {
      bytes.append(static_cast<const char*>(data), static_cast<size_t>(count));
    };
    for (const TestTensor* tensor : {&state_.w, &state_.extra, &state_.m, &state_.v, &state_.v_extra}) {
      if (tensor->type() == DType::none) continue;
      for (const Segment& s : segments_) add(ConstView(*tensor).at(s.offset).data, s.count * size_of(tensor->type()));
    }
    add(&scalars_.gradient_norm, sizeof(scalars_.gradient_norm));
    return hash_of(bytes);
  }
  int clipped() const { return clipped_; }

 private:
  void take(uint32_t step) {
    scalars_ = step_scalars(step);
    scalars_.largest_norm = 2;
    scalars_.loss_limit = scalars_.norm_limit = std::numeric_limits<double>::infinity();
    const auto count = static_cast<int64_t>(segments_.size());
    for (uint32_t micro_batch = 0; micro_batch < 2; ++micro_batch) {
      const TestTensor addend = contribution(step, micro_batch);
      scalars_.micro_batch = micro_batch;
      backend_->accumulate({.sum = gradient_,
                            .addend = addend,
                            .segments = segments_.data(),
                            .segment_count = count,
                            .first = micro_batch == 0,
                            .rounding = Rounding::stochastic,
                            .seed = 1337,
                            .scalars = &scalars_,
                            .draw = &scalars_.micro_batch},
                           {});
    }
    backend_->squared_norm({.gradient = gradient_,
                            .segments = segments_.data(),
                            .segment_count = count,
                            .group_sums = nullptr,
                            .scalars = &scalars_},
                           {});
    backend_->decide_step({.scalars = &scalars_}, {});
    backend_->adamw(operation(state_, gradient_, segments_, scalars_), {});
    backend_->synchronize({});
    clipped_ += scalars_.clip_factor < 1;
  }

  std::unique_ptr<Backend> backend_;
  State state_;
  TestTensor gradient_;
  const std::vector<Segment> segments_ = two_tensors();
  StepScalars scalars_;
  int clipped_ = 0;
};

}  // namespace

// Catches: a rounding, a draw, a sum or a clip that differs between backends or since the hashes were taken.
TEST_CASE("a hundred steps of every strategy end in the stored bits of the CPU", "[strategies]") {
  for (const StrategyInfo& info : kStrategies) {
    Run run(info.id);
    const std::string hash = run.hash_after(kSteps);
    CAPTURE(info.name, hash);
    CHECK(run.clipped() > 10);
    CHECK(run.clipped() < 90);
    CHECK(kHashes.count(info.name) == 1);
    if (kHashes.count(info.name) == 1) CHECK(kHashes.at(info.name) == hash);
  }
}

}  // namespace dither
