// One matrix product as cuBLASLt is told of it: descriptor, layouts and the algorithm.
#pragma once

#include <string>
#include <vector>

#include "kernels/cuda/algorithm_table.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/status.h"  // cudaStream_t

namespace dither::cuda {

struct ProductOperands {
  const void* a;                   // forward and input gradient: weight; weight gradient: x
  const void* b;                   // forward: x; else dy
  void* d;                         // result
  const void* bias = nullptr;      // forward: read; weight gradient: d_bias, written
  void* pre_activation = nullptr;  // with a fused GELU
};

class ProductPlan {
 public:
  /// fused: the library does the whole epilogue of the key; else GELU or the bias gradient is left to the caller.
  ProductPlan(const ProductKey& key, bool fused);

  /// What the heuristic offers within `workspace_bytes` and the rule of matrix_product.h allows, best first.
  std::vector<Algorithm> candidates(cublasLtHandle_t handle, int64_t workspace_bytes) const;

  /// Why an algorithm of a table cannot be used, as the end of a sentence that begins with it; empty: it can.
  std::string objection(cublasLtHandle_t handle, const Algorithm& algorithm, int64_t workspace_bytes) const;

  void use(const Algorithm& algorithm) { algorithm_ = algorithm; }
  const Algorithm& algorithm() const { return algorithm_; }

  /// d = the product, added to what d holds where `accumulate`.
  void run(cublasLtHandle_t handle, const ProductOperands& operands, bool accumulate, void* workspace,
           int64_t workspace_bytes, cudaStream_t stream) const;

 private:
  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) const;
  MatrixLayout layout(DType type, int64_t rows, int64_t columns) const;
  Algorithm described(const cublasLtMatmulAlgo_t& algo) const;
  void check(cublasStatus_t status, const char* file = __builtin_FILE(), int line = __builtin_LINE()) const;

  ProductKey key_;
  Algorithm algorithm_;
  bool reads_bias_ = false, keeps_pre_activation_ = false;
  MatmulDescriptor descriptor_;
  MatrixLayout a_, b_, d_;
};

}  // namespace dither::cuda
