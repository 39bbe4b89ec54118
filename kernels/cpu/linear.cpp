// The three products of a linear layer on the CPU: which operand is which, and the bias gradient.
//
//   forward          Y[n,o]  = sum_i  X[n,i]  W[o,i]      both operands contiguous in the contracted index
//   input gradient   dX[n,i] = sum_o dY[n,o]  W[o,i]      W contiguous in the free one
//   weight gradient  dW[o,i] = sum_n dY[n,o]  X[n,i]      both contiguous in the free one
//   bias gradient    db[o]   = sum_n dY[n,o]              FP32: blocks of 64 tokens in rising order, then the blocks
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"

namespace dither {

void CpuBackend::linear_forward(const LinearForward& op, Stream /*stream*/) {
  op.check();
  product_->multiply({.c = op.y,
                      .pre_activation = op.pre_activation,
                      .a = {op.x, op.I, Contiguous::contracted},
                      .b = {op.weight, op.I, Contiguous::contracted},
                      .bias = op.bias,
                      .M = op.N,
                      .N = op.O,
                      .K = op.I,
                      .epilogue = op.epilogue});
}

void CpuBackend::linear_input_gradient(const LinearInputGradient& op, Stream /*stream*/) {
  op.check();
  product_->multiply({.c = op.dx,
                      .a = {op.dy, op.O, Contiguous::contracted},
                      .b = {op.weight, op.I, Contiguous::free},
                      .M = op.N,
                      .N = op.I,
                      .K = op.O});
}

namespace {

constexpr int64_t kColumns = 256;  // of dY that one part of the work covers: 512 bytes to 1 KiB of each row

/// sums[block,o] = sum of dy[n,o] over the tokens of a block.
template <class T>
void sum_blocks(const LinearWeightGradient& op, float* sums, int threads) {
  const T* dy = data_of<T>(op.dy);
  const int64_t blocks = (op.N + op.kRows - 1) / op.kRows, strips = (op.O + kColumns - 1) / kColumns;
  parallel_for(threads, blocks * strips, [&](int64_t part) {
    const int64_t block = part / strips, column = part % strips * kColumns;
    const int64_t first = block * op.kRows, last = std::min(first + op.kRows, op.N);
    float* sum = sums + block * op.O + column;
    const int64_t columns = std::min(kColumns, op.O - column);
    std::fill(sum, sum + columns, 0.0f);
    for (int64_t n = first; n < last; ++n) {
      sweep(columns, [&](int64_t o, auto width) {
        store(sum + o, load(sum + o, width) + load(dy + n * op.O + column + o, width), width);
      });
    }
  });
}

template <class T>
void sum_bias(const LinearWeightGradient& op, const float* sums, int threads) {
  T* d_bias = data_of<T>(op.d_bias);
  const int64_t blocks = (op.N + op.kRows - 1) / op.kRows;
  parallel_ranges(threads, op.O, kColumns, [&](int64_t begin, int64_t end) {
    sweep(end - begin, [&](int64_t offset, auto width) {
      const int64_t o = begin + offset;
      Lanes sum{};
      for (int64_t block = 0; block < blocks; ++block) sum = sum + load(sums + block * op.O + o, width);
      if (op.accumulate) sum = load(d_bias + o, width) + sum;
      store(d_bias + o, sum, width);
    });
  });
}

}  // namespace

void CpuBackend::linear_weight_gradient(const LinearWeightGradient& op, Stream /*stream*/) {
  op.check();
  product_->multiply({.c = op.d_weight,
                      .a = {op.dy, op.O, Contiguous::free},
                      .b = {op.x, op.I, Contiguous::free},
                      .M = op.O,
                      .N = op.I,
                      .K = op.N,
                      .accumulate = op.accumulate});
  if (!op.d_bias) return;
  auto* sums = static_cast<float*>(op.workspace);
  with_type(op.dy.type, [&]<class T>(T) { sum_blocks<T>(op, sums, threads_); });
  with_type(op.d_bias.type, [&]<class T>(T) { sum_bias<T>(op, sums, threads_); });
}

}  // namespace dither
