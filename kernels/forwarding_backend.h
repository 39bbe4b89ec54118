// A backend around another: everything is passed on, and each operation goes through around(), where a subclass can
// time it, wait for it or count it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>  // move

#include "kernels/backend.h"
#include "kernels/operations/work.h"

namespace dither {

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::shared_ptr<Backend> inner) : inner_(std::move(inner)) {}

  // One line an operation: its name is that of its Work.
#define DITHER_FORWARD(operation, Operation)                                         \
  void operation(const Operation& op, Stream stream) override {                      \
    around(work_of(#operation, op), stream, [&] { inner_->operation(op, stream); }); \
  }
  DITHER_FORWARD(embedding_forward, EmbeddingForward)
  DITHER_FORWARD(embedding_backward, EmbeddingBackward)
  DITHER_FORWARD(residual_norm_forward, ResidualNormForward)
  DITHER_FORWARD(residual_norm_backward, ResidualNormBackward)
  DITHER_FORWARD(rotary_forward, RotaryForward)
  DITHER_FORWARD(rotary_backward, RotaryBackward)
  DITHER_FORWARD(attention_forward, AttentionForward)
  DITHER_FORWARD(attention_backward, AttentionBackward)
  DITHER_FORWARD(gelu_forward, GeluForward)
  DITHER_FORWARD(gelu_backward, GeluBackward)
  DITHER_FORWARD(swiglu_forward, SwigluForward)
  DITHER_FORWARD(swiglu_backward, SwigluBackward)
  DITHER_FORWARD(linear_forward, LinearForward)
  DITHER_FORWARD(linear_input_gradient, LinearInputGradient)
  DITHER_FORWARD(linear_weight_gradient, LinearWeightGradient)
  DITHER_FORWARD(cross_entropy, CrossEntropy)
  DITHER_FORWARD(sum_losses, SumLosses)
  DITHER_FORWARD(initialise, Initialise)
  DITHER_FORWARD(accumulate, Accumulate)
  DITHER_FORWARD(squared_norm, SquaredNorm)
  DITHER_FORWARD(decide_step, DecideStep)
  DITHER_FORWARD(adamw, AdamW)
#undef DITHER_FORWARD

  void copy(View to, ConstView from, int64_t elements, Stream stream) override {
    around({"copy", elements * (size_of(to.type) + size_of(from.type)), 0}, stream,
           [&] { inner_->copy(to, from, elements, stream); });
  }
  void zero(void* memory, int64_t bytes, Stream stream) override {
    around({"zero", bytes, 0}, stream, [&] { inner_->zero(memory, bytes, stream); });
  }
  void copy_from_host(void* to, const void* from, int64_t bytes, Stream stream) override {
    around({"copy_from_host", 2 * bytes, 0}, stream, [&] { inner_->copy_from_host(to, from, bytes, stream); });
  }
  void copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) override {
    around({"copy_to_host", 2 * bytes, 0}, stream, [&] { inner_->copy_to_host(to, from, bytes, stream); });
  }

  void synchronize(Stream stream) override { inner_->synchronize(stream); }
  Stream stream() const override { return inner_->stream(); }
  Stream second_stream() const override { return inner_->second_stream(); }
  void order(Stream earlier, Stream later) override { inner_->order(earlier, later); }
  /// Replayed work does not pass through around(): a subclass that must see it calls work() instead.
  void repeat(uint64_t key, Stream stream, const std::function<void()>& work) override {
    inner_->repeat(key, stream, work);
  }
  void* allocate(int64_t bytes) override { return inner_->allocate(bytes); }
  void free(void* memory) override { inner_->free(memory); }
  int64_t allocated_bytes() const override { return inner_->allocated_bytes(); }
  int64_t allocation_count() const override { return inner_->allocation_count(); }
  int64_t free_bytes() const override { return inner_->free_bytes(); }
  std::string description() const override { return inner_->description(); }
  std::string arithmetic() const override { return inner_->arithmetic(); }
  std::string device_id() const override { return inner_->device_id(); }
  std::string algorithms() const override { return inner_->algorithms(); }
  void use_algorithms(const std::string& json, const std::string& where) override {
    inner_->use_algorithms(json, where);
  }
  void tune(bool on) override { inner_->tune(on); }

 protected:
  /// run() gives the operation to the inner backend; whoever overrides this calls it once.
  virtual void around(const Work& work, Stream stream, const std::function<void()>& run) = 0;
  Backend& inner() { return *inner_; }

 private:
  std::shared_ptr<Backend> inner_;
};

}  // namespace dither
