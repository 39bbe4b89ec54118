// THE list of operations. A backend computes them on the memory it hands out; the model, the optimizer and the loop
// know nothing else of it.
//
// An operation gets views, sizes and a stream, calls check() first (the same on every backend: type combinations,
// sizes, aliasing), allocates nothing and keeps nothing. Same inputs, same bits, every time, at any thread count.
// tests/kernels/coverage_test.cpp reads the virtual functions below and fails for one without test cases.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "kernels/operations/attention.h"
#include "kernels/operations/embedding.h"
#include "kernels/operations/feed_forward.h"
#include "kernels/operations/linear.h"
#include "kernels/operations/loss.h"
#include "kernels/operations/norm.h"
#include "kernels/operations/update.h"

namespace dither {

class Backend {
 public:
  virtual ~Backend() = default;

  virtual void embedding_forward(const EmbeddingForward& op, Stream stream) = 0;
  virtual void embedding_backward(const EmbeddingBackward& op, Stream stream) = 0;
  virtual void residual_norm_forward(const ResidualNormForward& op, Stream stream) = 0;
  virtual void residual_norm_backward(const ResidualNormBackward& op, Stream stream) = 0;
  virtual void rotary_forward(const RotaryForward& op, Stream stream) = 0;
  virtual void rotary_backward(const RotaryBackward& op, Stream stream) = 0;
  virtual void attention_forward(const AttentionForward& op, Stream stream) = 0;
  virtual void attention_backward(const AttentionBackward& op, Stream stream) = 0;
  virtual void gelu_forward(const GeluForward& op, Stream stream) = 0;
  virtual void gelu_backward(const GeluBackward& op, Stream stream) = 0;
  virtual void swiglu_forward(const SwigluForward& op, Stream stream) = 0;
  virtual void swiglu_backward(const SwigluBackward& op, Stream stream) = 0;
  virtual void linear_forward(const LinearForward& op, Stream stream) = 0;
  virtual void linear_input_gradient(const LinearInputGradient& op, Stream stream) = 0;
  virtual void linear_weight_gradient(const LinearWeightGradient& op, Stream stream) = 0;
  virtual void cross_entropy(const CrossEntropy& op, Stream stream) = 0;
  virtual void sum_losses(const SumLosses& op, Stream stream) = 0;
  virtual void initialise(const Initialise& op, Stream stream) = 0;
  virtual void accumulate(const Accumulate& op, Stream stream) = 0;
  virtual void squared_norm(const SquaredNorm& op, Stream stream) = 0;
  virtual void decide_step(const DecideStep& op, Stream stream) = 0;
  virtual void adamw(const AdamW& op, Stream stream) = 0;

  /// to[i] = from[i], rounded by RN where the type narrows. Both in this backend's memory; no overlap.
  virtual void copy(View to, ConstView from, int64_t elements, Stream stream) = 0;
  virtual void zero(void* memory, int64_t bytes, Stream stream) = 0;
  /// `from` may be used again at once.
  virtual void copy_from_host(void* to, const void* from, int64_t bytes, Stream stream) = 0;
  /// `to` holds the values after synchronize().
  virtual void copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) = 0;
  /// Waits until everything given to `stream` is done.
  virtual void synchronize(Stream stream) = 0;

  /// The stream that a run's work is given to.
  virtual Stream stream() const = 0;
  /// Another, for work beside it (collectives); the same where a backend has one queue.
  virtual Stream second_stream() const = 0;
  /// What is given to `later` from now on begins when all that was given to `earlier` so far is done.
  virtual void order(Stream earlier, Stream later) = 0;
  /// Does work(), which gives operations to `stream`. Work that was done under the same key before may be replayed
  /// instead of called: it must be the same operations on the same memory each time, and copy nothing from or to the
  /// host.
  virtual void repeat(uint64_t key, Stream stream, const std::function<void()>& work) = 0;

  /// Zeroed memory, aligned to 256 bytes. Throws Error when there is not enough, naming both sizes.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void free(void* memory) = 0;
  virtual int64_t allocated_bytes() const = 0;
  /// Allocations made so far: a step that changes it has broken the plan.
  virtual int64_t allocation_count() const = 0;
  /// What allocate() could still give; -1 where nobody knows.
  virtual int64_t free_bytes() const = 0;

  /// One line for the start-up table, for example "CPU, 2 threads, oneDNN 2.6.3 (AMX)".
  virtual std::string description() const = 0;
  /// What decides the bits of results beside the inputs: device, instruction set, libraries. Not the number of threads.
  virtual std::string arithmetic() const = 0;
  /// Which GPU it is, the same text in every process that uses it; "" where processes may share the device anyway.
  virtual std::string device_id() const = 0;

  /// The algorithms of all matrix products so far, as JSON; "" where a backend has no choice (docs/algorithms.md).
  virtual std::string algorithms() const { return ""; }
  /// Products use the algorithms of such a text. `where` names its source in messages. Throws Error if it is malformed
  /// or was made for another device or library.
  virtual void use_algorithms(const std::string& json, const std::string& where);
  /// From now on the algorithm of a product that is not in the table is found by measuring.
  virtual void tune(bool on);
};

/// The CPU backend with `threads` threads; 0: as many as this process may use (kernels/threads.h). Throws Error where
/// the system does not give them.
std::unique_ptr<Backend> make_cpu_backend(int threads);

/// CUDA devices that this program could use; 0 where it was built without CUDA.
int cuda_devices();
/// The CUDA backend on a device, counted from 0. Throws Error where there is none, or the program was built without
/// CUDA.
std::unique_ptr<Backend> make_cuda_backend(int device);
/// Bytes that the CUDA backend allocates for itself: the workspace of its matrix products.
int64_t cuda_workspace_bytes();

}  // namespace dither
