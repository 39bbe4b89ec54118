// Which cuBLASLt algorithm computes which matrix product, as a table that one run writes and another takes over: the
// algorithm decides the order of a product's sums, and so its bits.
//
//   { "device": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "cublaslt": 130002,
//     "products": [ { "operation": "linear_forward", "N": 8192, "I": 768, "O": 3072, "operands": "bf16",
//                     "result": "bf16", "epilogue": "gelu_bias", "alignment": 256, "fused": true,
//                     "algorithm": "<128 hexadecimal digits>", "split_k": 1, "tile": 20, "stages": 12,
//                     "seconds": 7.1e-05 } ] }
//
// The algorithm is the library's own description, eight words of 16 digits, which it promises to understand again in
// the same version. split_k, tile and stages are read from it, for the reader of the table. seconds: where it was
// measured. A table of another device or library is refused.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <string>

#include "kernels/numerics/dtype.h"

namespace dither::cuda {

enum class LinearProduct : uint8_t { forward, input_gradient, weight_gradient };

/// What is asked for beside the sums. An accumulated weight gradient is `none`, with or without its bias gradient.
enum class ProductEpilogue : uint8_t { none, bias, gelu, gelu_bias, bias_gradient };

/// Everything the choice of an algorithm may depend on, on one device with one version of the library.
struct ProductKey {
  LinearProduct product;
  int64_t N, I, O;
  DType operands, result;
  ProductEpilogue epilogue;
  int alignment;  // of all its tensors, in bytes: a power of two, at most kLargestAlignment
  auto operator<=>(const ProductKey&) const = default;  // NOLINT: clang-tidy 14 takes it for a null pointer
};
constexpr int kLargestAlignment = 256;  // no more is asked by any algorithm, and all tensors begin at a multiple of it

/// "linear_forward N=8192 I=768 O=3072 bf16": for messages.
std::string text_of(const ProductKey& key);

struct Algorithm {
  std::array<uint64_t, 8> words;  // cublasLtMatmulAlgo_t
  bool fused;                     // the library does the whole epilogue; else GELU or the bias gradient are ours
  int split_k = 1;
  int tile = 0;
  int stages = 0;
  double seconds = 0;  // 0: not measured
};

/// Epilogues that a kernel of ours can finish where the product does not.
constexpr bool can_be_unfused(ProductEpilogue epilogue) {
  return epilogue != ProductEpilogue::none && epilogue != ProductEpilogue::bias;
}
/// FP32 products keep the CPU's arithmetic in GELU and the CPU's order in the bias gradient.
constexpr bool can_be_fused(const ProductKey& key) {
  return !can_be_unfused(key.epilogue) || key.operands == DType::bf16;
}

/// What a table belongs to.
struct TableOrigin {
  std::string device;
  std::string compute_capability;  // "9.0"
  int64_t cublaslt;                // its version
  friend bool operator==(const TableOrigin&, const TableOrigin&) = default;
};

using AlgorithmTable = std::map<ProductKey, Algorithm>;

std::string to_json(const TableOrigin& origin, const AlgorithmTable& table);

/// The table in `json`. Throws Error that begins with `where` for text that is no such table, and for a table of
/// another device or library than `here`.
AlgorithmTable algorithms_from_json(const std::string& json, const std::string& where, const TableOrigin& here);

}  // namespace dither::cuda
