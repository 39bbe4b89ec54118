// The matrix products of the CUDA backend: the three of a linear layer, by cuBLASLt, with the algorithm of each chosen
// once and written down (algorithm_table.h).
//
// rule: the algorithm is a function of shape, types, epilogue, alignment, device and library version: the first of the
// heuristic's candidates whose split-K, if any, adds its partial sums in FP32. A table of a run or of `dither tune`
// takes its place where it has an entry. So two runs of one config have the same bits.
//
// Everything is done in the order of the stream. A shape seen for the first time makes its descriptors; afterwards
// nothing is allocated.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cuda_workspace.h"
#include "kernels/operations/linear.h"

namespace dither::cuda {

class MatrixProducts {
 public:
  /// What the library may use beside the operands.
  static constexpr int64_t kWorkspaceBytes = kCudaWorkspaceBytes;

  /// For the current device. `workspace`: kWorkspaceBytes of its memory, aligned to 256 bytes. All products are given
  /// to one stream, or to streams that wait for each other: they share the workspace.
  explicit MatrixProducts(void* workspace);
  ~MatrixProducts();

  void forward(const LinearForward& op, Stream stream);
  void input_gradient(const LinearInputGradient& op, Stream stream);
  void weight_gradient(const LinearWeightGradient& op, Stream stream);

  /// The table of all choices so far, as JSON: those made and those that use_algorithms brought.
  std::string algorithms() const;
  /// From now on the choices of `json`, and the rule for products that are not in it; earlier choices are forgotten.
  /// Throws Error, which names `where`, and changes nothing: for malformed text, for a table of another device or
  /// library version (the bits would differ), for an algorithm that the library does not know or the rule forbids.
  void use_algorithms(const std::string& json, const std::string& where);
  /// On: a product that is not in the table is measured when it is first asked for: all allowed candidates, with and
  /// without a fused epilogue, on the real operands; the fastest is kept. Needs a stream that is not being captured. A
  /// product that accumulates cannot be repeated: it takes the choice of its twin that overwrites, if there is one.
  void tune(bool on);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The bias gradient of `op` alone, with the CPU's bits (bias_gradient.cu).
void linear_bias_gradient(const LinearWeightGradient& op, Stream stream);

/// The weight gradient of `op` alone where x and dy are FP32 and d_weight is BF16 (narrow_weight_gradient.cu).
void narrow_weight_gradient(const LinearWeightGradient& op, Stream stream);

}  // namespace dither::cuda
