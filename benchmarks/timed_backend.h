// A backend around another that counts the seconds of every operation by name. For backends that compute before they
// return (CPU).
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "kernels/backend.h"

namespace dither {

class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  const std::map<std::string, double>& seconds() const { return seconds_; }
  void reset() { seconds_.clear(); }

  // One line an operation: its name is the key of its seconds.
#define DITHER_TIMED(operation, Op)                            \
  void operation(const Op& op, Stream stream) override {       \
    timed(#operation, [&] { inner_->operation(op, stream); }); \
  }
  DITHER_TIMED(embedding_forward, EmbeddingForward)
  DITHER_TIMED(embedding_backward, EmbeddingBackward)
  DITHER_TIMED(residual_norm_forward, ResidualNormForward)
  DITHER_TIMED(residual_norm_backward, ResidualNormBackward)
  DITHER_TIMED(rotary_forward, RotaryForward)
  DITHER_TIMED(rotary_backward, RotaryBackward)
  DITHER_TIMED(attention_forward, AttentionForward)
  DITHER_TIMED(attention_backward, AttentionBackward)
  DITHER_TIMED(gelu_forward, GeluForward)
  DITHER_TIMED(gelu_backward, GeluBackward)
  DITHER_TIMED(swiglu_forward, SwigluForward)
  DITHER_TIMED(swiglu_backward, SwigluBackward)
  DITHER_TIMED(linear_forward, LinearForward)
  DITHER_TIMED(linear_input_gradient, LinearInputGradient)
  DITHER_TIMED(linear_weight_gradient, LinearWeightGradient)
  DITHER_TIMED(cross_entropy, CrossEntropy)
  DITHER_TIMED(sum_losses, SumLosses)
  DITHER_TIMED(initialise, Initialise)
  DITHER_TIMED(accumulate, Accumulate)
  DITHER_TIMED(squared_norm, SquaredNorm)
  DITHER_TIMED(decide_step, DecideStep)
  DITHER_TIMED(adamw, AdamW)
#undef DITHER_TIMED

  void copy(View to, ConstView from, int64_t elements, Stream stream) override {
    timed("copy", [&] { inner_->copy(to, from, elements, stream); });
  }
  void zero(void* memory, int64_t bytes, Stream stream) override {
    timed("zero", [&] { inner_->zero(memory, bytes, stream); });
  }
  void copy_from_host(void* to, const void* from, int64_t bytes, Stream stream) override {
    inner_->copy_from_host(to, from, bytes, stream);
  }
  void copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) override {
    inner_->copy_to_host(to, from, bytes, stream);
  }
  void synchronize(Stream stream) override { inner_->synchronize(stream); }
  void* allocate(int64_t bytes) override { return inner_->allocate(bytes); }
  void free(void* memory) override { inner_->free(memory); }
  int64_t allocated_bytes() const override { return inner_->allocated_bytes(); }
  int64_t allocation_count() const override { return inner_->allocation_count(); }
  std::string description() const override { return inner_->description(); }

 private:
  template <class Body>
  void timed(const char* name, const Body& body) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    seconds_[name] += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  std::unique_ptr<Backend> inner_;
  std::map<std::string, double> seconds_;
};

}  // namespace dither
