// The model over the CPU backend: tied embeddings, padded vocabulary, masked targets, head chunks.
#include "src/model/model.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include "src/model/plain_parameters.h"
#include "src/optimizer/optimizer.h"
#include "tests/catch.h"

namespace dither {

namespace {

constexpr int64_t kB = 2, kT = 20, kN = kB * kT;

Config fp32_config(bool tied, int64_t vocabulary) {
  Config c;
  c.seed = 3;
  c.model.layers = 2;
  c.model.hidden = 64;
  c.model.heads = 2;
  c.model.kv_heads = 1;
  c.model.head_size = 32;
  c.model.ffn = 96;
  c.model.vocabulary = vocabulary;
  c.model.sequence_length = kT;
  c.model.tied_embeddings = tied;
  c.model.init_std = 0.1;
  c.batch.micro_batch_size = kB;
  c.batch.tokens_per_step = kN;
  c.precision.strategy = Strategy::fp32;
  c.precision.gradient = GradientStorage::fp32;
  c.precision.residual = c.precision.compute = DType::fp32;
  return c;
}

/// Everything for one forward and backward on the CPU, with a batch of repeating tokens.
struct Harness {
  Config config;
  ParameterTable table;
  std::unique_ptr<Backend> backend = make_cpu_backend(2);
  StepScalars* scalars;
  PlainParameters parameters;
  Optimizer optimizer;
  Model model;
  std::vector<int32_t> tokens, targets;

  explicit Harness(const Config& c)
      : config(c),
        table(config),
        scalars(static_cast<StepScalars*>(backend->allocate(sizeof(StepScalars)))),
        parameters(table, {strategy_info(c.precision.strategy).weight, c.precision.gradient, 1, c.seed}, *backend,
                   scalars, {}),
        optimizer(config, table, parameters.owned(), *backend, scalars, {}),
        model(config, table, parameters, *backend, scalars, {}) {
    optimizer.initialise();
    for (int64_t i = 0; i < kN; ++i) {
      tokens.push_back(static_cast<int32_t>(i * 7 % (c.model.vocabulary - 5)));  // the last five tokens never occur
      targets.push_back(static_cast<int32_t>((i * 7 + 3) % (c.model.vocabulary - 5)));
    }
  }
  ~Harness() { backend->free(scalars); }

  double step() {
    StepScalars s;
    s.loss_scale = 1.0f / static_cast<float>(kN);
    optimizer.begin_step(s, false);
    model.load(tokens.data(), targets.data(), kB, kT);
    model.forward();
    model.backward();
    return scalars->loss_sum.value() / static_cast<double>(kN);
  }
  const Parameter& find(int bucket, Role role) const { return *table.find(bucket, role); }
  const float* gradient(const Parameter& p) const { return parameters.gradients().at(p).fp32(); }
  float* weight(const Parameter& p) const { return parameters.weights().at(p).fp32(); }
};

}  // namespace

// The head forms its part first and the embedding adds its own with one rounding, so the sum is exact to the bit.
// Catches: one of the two contributions lost, overwritten or doubled.
TEST_CASE("the gradient of a tied embedding is the untied embedding's plus the untied head's") {
  Harness tied(fp32_config(true, 61)), untied(fp32_config(false, 61));
  const Parameter& shared = tied.find(tied.table.embedding_bucket(), Role::token_embedding);
  const Parameter& embedding = untied.find(untied.table.embedding_bucket(), Role::token_embedding);
  const Parameter& head = untied.find(untied.table.final_bucket(), Role::head_weight);
  for (const Parameter& p : tied.table.parameters()) {  // same weights, the head a copy of the embedding
    const Parameter& q = p.role == Role::token_embedding ? embedding : *untied.table.find(p.bucket, p.role);
    std::memcpy(untied.weight(q), tied.weight(p), static_cast<size_t>(p.elements()) * 4);
  }
  std::memcpy(untied.weight(head), tied.weight(shared), static_cast<size_t>(shared.elements()) * 4);

  CHECK(tied.step() == untied.step());
  for (int64_t i = 0; i < shared.elements(); ++i) {
    REQUIRE(tied.gradient(shared)[i] == untied.gradient(embedding)[i] + untied.gradient(head)[i]);
  }
}

// Catches: padded logits inside the softmax, gradients that leak into padded rows.
TEST_CASE("padded rows of the vocabulary have no part in loss and gradient") {
  Harness h(fp32_config(false, 61));
  const double loss = h.step();
  const Parameter& head = h.find(h.table.final_bucket(), Role::head_weight);
  REQUIRE(head.rows == 64);
  for (const Parameter* p : {&head, &h.find(0, Role::token_embedding)}) {
    for (int64_t i = p->counted_elements(); i < p->elements(); ++i) REQUIRE(h.gradient(*p)[i] == 0.0f);
  }
  for (int64_t i = head.counted_elements(); i < head.elements(); ++i) h.weight(head)[i] = 50.0f;
  CHECK(h.step() == loss);
}

// Catches: a masked target that still counts, a mean over all tokens instead of those that count.
TEST_CASE("masked targets count neither in the loss nor in any gradient") {
  Harness h(fp32_config(true, 61));
  const double whole = h.step() * kN;
  std::vector<float> losses;
  h.model.losses(losses);
  double masked = 0;
  for (size_t i = 0; i < h.targets.size(); i += 3) {
    masked += losses[i];
    h.targets[i] = kIgnoredTarget;
  }
  CHECK(h.step() * kN == Approx(whole - masked).epsilon(1e-6));
  for (int32_t& t : h.targets) t = kIgnoredTarget;
  CHECK(h.step() == 0);
  for (const Parameter& p : h.table.parameters()) {
    for (int64_t i = 0; i < p.elements(); ++i) REQUIRE(h.gradient(p)[i] == 0.0f);
  }
}

// Central differences in FP32: the step is large enough that the loss changes by 1e-4 of itself, against 1e-7 of noise.
// Catches: whatever the fixtures of the named architectures do not have: QK-norm, tied with SwiGLU.
TEST_CASE("gradients with QK-norm agree with finite differences of the loss") {
  Config config = fp32_config(true, 61);
  config.model.qk_norm = true;
  Harness h(config);
  h.step();
  for (const Parameter& p : h.table.parameters()) {
    const std::vector<float> gradient(h.gradient(p), h.gradient(p) + p.counted_elements());
    double norm = 0;
    for (const float g : gradient) norm += static_cast<double>(g) * g;
    norm = std::sqrt(norm);
    const float step = static_cast<float>(2e-3 / norm);  // along the gradient: the loss moves by +-2e-3
    const std::vector<float> weights(h.weight(p), h.weight(p) + p.counted_elements());
    auto loss_at = [&](float t) {
      for (size_t i = 0; i < weights.size(); ++i) {
        h.weight(p)[i] = weights[i] + t * static_cast<float>(gradient[i] / norm);
      }
      return h.step();
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
    std::memcpy(h.weight(p), weights.data(), weights.size() * 4);
    INFO(p.name);
    CHECK(slope == Approx(norm).epsilon(0.02));
  }
}

TEST_CASE("the head's chunk is a function of the shape, a multiple of 64 unless it is everything") {
  ModelConfig model;
  model.vocabulary = 50257;
  CHECK(head_chunk_tokens(model, 100) == 100);
  CHECK(head_chunk_tokens(model, 4096) == 640);
  CHECK(head_chunk_tokens(model, 8192) == 1024);  // eight chunks
  CHECK(head_chunk_tokens(model, 32768) == 4096);
  model.vocabulary = 61;
  CHECK(head_chunk_tokens(model, 8192) == 8192);
}

namespace {

/// Passes calls on and writes them down.
class RecordedCalls final : public ParameterAccess {
 public:
  explicit RecordedCalls(ParameterAccess& inner) : inner_(inner) {}
  const BucketViews& before_forward(int bucket) override {
    return say("forward", bucket), inner_.before_forward(bucket);
  }
  const BucketViews& before_backward(int bucket) override {
    return say("backward", bucket), inner_.before_backward(bucket);
  }
  void gradients_ready(int bucket) override { say("ready", bucket), inner_.gradients_ready(bucket); }
  void release(int bucket) override { say("release", bucket), inner_.release(bucket); }
  std::vector<std::string> take() { return std::exchange(calls_, {}); }

 private:
  void say(const char* call, int bucket) { calls_.push_back(std::string(call) + " " + std::to_string(bucket)); }
  ParameterAccess& inner_;
  std::vector<std::string> calls_;
};

}  // namespace

// Ranks exchange weights and gradients in the order of these calls. Catches: a rank without a micro-batch that asks in
// another order, for more, or for less than one that computes.
TEST_CASE("a rank that stands by asks for the same buckets in the same order as one that computes") {
  for (const bool tied : {true, false}) {
    for (const Positions positions : {Positions::learned, Positions::rotary}) {
      Config config = fp32_config(tied, 61);
      config.model.positions = positions;
      Harness h(config);
      RecordedCalls calls(h.parameters);
      Model model(h.config, h.table, calls, *h.backend, h.scalars, {});
      ExactSum* sum = static_cast<ExactSum*>(h.backend->allocate(sizeof(ExactSum)));
      model.load(h.tokens.data(), h.targets.data(), kB, kT);
      model.forward();
      model.backward();
      const std::vector<std::string> training = calls.take();
      model.stand_by(true);
      CHECK(calls.take() == training);
      model.forward();
      model.evaluate(sum);
      const std::vector<std::string> evaluation = calls.take();
      model.stand_by(false);
      CHECK(calls.take() == evaluation);
      CHECK(training.size() > evaluation.size());
      h.backend->free(sum);
    }
  }
}

}  // namespace dither
