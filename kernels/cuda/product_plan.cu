// How the three products of a linear layer are told to cuBLASLt, which of its algorithms are allowed, and their call.
//
// The library's matrices are column-major: a tensor [rows, columns] with `columns` contiguous is for it a matrix of
// `columns` rows, leading dimension `columns`. So it computes the transpose of every result, D = op(A) op(B):
//
//                     D             op(A)               op(B)
//   forward           Y^T  [O,N]    W     (T) [O,I]     X^T  (N) [I,N]     a bias is one value a row of D: O of them
//   input gradient    dX^T [I,N]    W^T   (N) [I,O]     dY^T (N) [O,N]
//   weight gradient   dW^T [I,O]    X^T   (N) [I,N]     dY   (T) [N,O]     d_bias is summed over k = N of B: BGRADB
//
// Sums are FP32 (CUBLAS_COMPUTE_32F: never TF32), alpha is 1, and beta is 1 where a result is accumulated. C is D.
#include <cstring>

#include "kernels/cuda/product_plan.h"

namespace dither::cuda {

namespace {

constexpr int kCandidates = 16;  // asked of the heuristic, which orders them by its estimate of their time

/// A place whose address is a multiple of `alignment` and of no larger power of two. The heuristic takes the alignment
/// of the bias and of the pre-activations from their pointers, which it does not follow (cublasLt.h); with the tensors'
/// own the choice would depend on more than the key.
const void* place_aligned_to(int alignment) {
  alignas(2 * kLargestAlignment) static const char places[kLargestAlignment + 1] = {};
  return places + alignment;
}

cudaDataType_t type_of(DType type) { return type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

cublasLtEpilogue_t epilogue_of(ProductEpilogue epilogue, bool fused) {
  switch (epilogue) {
    case ProductEpilogue::none:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case ProductEpilogue::bias:
      return CUBLASLT_EPILOGUE_BIAS;
    case ProductEpilogue::gelu:
      return fused ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_DEFAULT;
    case ProductEpilogue::gelu_bias:
      return fused ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_BIAS;
    case ProductEpilogue::bias_gradient:
      return fused ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_DEFAULT;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

/// One attribute of an algorithm, all of which have 32 bits.
int32_t attribute_of(const cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute,
                     const ProductKey& key) {
  int32_t value = 0;
  size_t written = 0;
  check_cublaslt(cublasLtMatmulAlgoConfigGetAttribute(&algo, attribute, &value, sizeof(value), &written),
                 [&] { return text_of(key); });
  return value;
}

/// Partial sums of a split K may be added in FP32 alone: not in place and not in the type of the result.
bool sums_in_fp32(const cublasLtMatmulAlgo_t& algo, const ProductKey& key) {
  const int32_t scheme = attribute_of(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, key);
  return attribute_of(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, key) == 1 || scheme == CUBLASLT_REDUCTION_SCHEME_NONE ||
         scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
}

cublasLtMatmulAlgo_t algo_of(const Algorithm& algorithm) {
  cublasLtMatmulAlgo_t algo;
  static_assert(sizeof(algo) == sizeof(algorithm.words));
  std::memcpy(&algo, algorithm.words.data(), sizeof(algo));
  return algo;
}

MatmulPreference preference_for(const ProductKey& key, int64_t workspace_bytes) {
  const auto check = [&](cublasStatus_t status) { check_cublaslt(status, [&] { return text_of(key); }); };
  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made));
  MatmulPreference preference(made);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes));
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(attribute, static_cast<uint32_t>(key.alignment));
  }
  return preference;
}

}  // namespace

void ProductPlan::check(cublasStatus_t status, const char* file, int line) const {
  check_cublaslt(
      status, [this] { return text_of(key_); }, file, line);
}

template <class Value>
void ProductPlan::set(cublasLtMatmulDescAttributes_t attribute, const Value& value) const {
  check(cublasLtMatmulDescSetAttribute(descriptor_.get(), attribute, &value, sizeof(value)));
}

MatrixLayout ProductPlan::layout(DType type, int64_t rows, int64_t columns) const {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, type_of(type), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                   rows));
  return MatrixLayout(made);
}

ProductPlan::ProductPlan(const ProductKey& key, bool fused) : key_(key), algorithm_{.words = {}, .fused = fused} {
  const bool forward = key.product == LinearProduct::forward, weight = key.product == LinearProduct::weight_gradient;
  cublasLtMatmulDesc_t made = nullptr;
  check(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  descriptor_.reset(made);
  set(CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(forward ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(CUBLASLT_MATMUL_DESC_TRANSB, static_cast<int32_t>(weight ? CUBLAS_OP_T : CUBLAS_OP_N));
  a_ = layout(key.operands, key.I, weight ? key.N : key.O);
  b_ = layout(key.operands, forward ? key.I : key.O, key.N);
  d_ = layout(key.result, forward ? key.O : key.I, weight ? key.O : key.N);

  const cublasLtEpilogue_t epilogue = epilogue_of(key.epilogue, fused);
  reads_bias_ = epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
                epilogue == CUBLASLT_EPILOGUE_BGRADB;
  keeps_pre_activation_ = epilogue == CUBLASLT_EPILOGUE_GELU_AUX || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(epilogue));
  if (reads_bias_) {
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, place_aligned_to(key.alignment));
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(key.result)));
  }
  if (keeps_pre_activation_) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, place_aligned_to(key.alignment));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, key.O);  // a multiple of 8, as it must be
  }
}

Algorithm ProductPlan::described(const cublasLtMatmulAlgo_t& algo) const {
  Algorithm result{.words = {},
                   .fused = algorithm_.fused,
                   .split_k = attribute_of(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, key_),
                   .tile = attribute_of(algo, CUBLASLT_ALGO_CONFIG_TILE_ID, key_),
                   .stages = attribute_of(algo, CUBLASLT_ALGO_CONFIG_STAGES_ID, key_)};
  std::memcpy(result.words.data(), &algo, sizeof(algo));
  return result;
}

std::vector<Algorithm> ProductPlan::candidates(cublasLtHandle_t handle, int64_t workspace_bytes) const {
  const MatmulPreference preference = preference_for(key_, workspace_bytes);
  cublasLtMatmulHeuristicResult_t offered[kCandidates] = {};  // nvcc 13.0 breaks on a vector of them
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, descriptor_.get(), a_.get(), b_.get(), d_.get(), d_.get(),
                                     preference.get(), kCandidates, offered, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};  // how it says that it has none
  check(status);
  std::vector<Algorithm> allowed;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& candidate = offered[i];
    if (candidate.state == CUBLAS_STATUS_SUCCESS && sums_in_fp32(candidate.algo, key_)) {
      allowed.push_back(described(candidate.algo));
    }
  }
  return allowed;
}

std::string ProductPlan::objection(cublasLtHandle_t handle, const Algorithm& algorithm, int64_t workspace_bytes) const {
  const cublasLtMatmulAlgo_t algo = algo_of(algorithm);
  cublasLtMatmulHeuristicResult_t needs{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle, descriptor_.get(), a_.get(), b_.get(), d_.get(), d_.get(), &algo, &needs);
  if (status != CUBLAS_STATUS_SUCCESS) return std::string("is refused by cuBLASLt: ") + cublasLtGetStatusName(status);
  if (static_cast<int64_t>(needs.workspaceSize) > workspace_bytes) {
    return "needs " + std::to_string(needs.workspaceSize) + " bytes of workspace, of which there are " +
           std::to_string(workspace_bytes);
  }
  if (!sums_in_fp32(algo, key_)) return "splits its sums and does not add the parts in FP32";
  const Algorithm found = described(algo);
  if (found.split_k != algorithm.split_k || found.tile != algorithm.tile || found.stages != algorithm.stages) {
    return "is another one than its entry says: split_k " + std::to_string(found.split_k) + ", tile " +
           std::to_string(found.tile) + ", stages " + std::to_string(found.stages);
  }
  return "";
}

void ProductPlan::run(cublasLtHandle_t handle, const ProductOperands& operands, bool accumulate, void* workspace,
                      int64_t workspace_bytes, cudaStream_t stream) const {
  if (reads_bias_) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
  if (keeps_pre_activation_) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.pre_activation);
  const float alpha = 1, beta = accumulate ? 1.0f : 0.0f;
  const cublasLtMatmulAlgo_t algo = algo_of(algorithm_);
  check(cublasLtMatmul(handle, descriptor_.get(), &alpha, operands.a, a_.get(), operands.b, b_.get(), &beta, operands.d,
                       d_.get(), operands.d, d_.get(), &algo, workspace, static_cast<size_t>(workspace_bytes), stream));
}

}  // namespace dither::cuda
