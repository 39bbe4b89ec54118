#include "tests/cuda_host/cublaslt.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "kernels/numerics/bf16.h"
#include "kernels/numerics/elementary.h"  // gelu

struct cublasLtContext {};
struct CublasltHostDesc {
  int32_t transa = CUBLAS_OP_N, transb = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;  // written by a bias gradient
  void* aux = nullptr;
  int64_t aux_ld = 0;
  int32_t bias_type = -1;  // the type of D
};
struct CublasltHostLayout {
  cudaDataType_t type;
  int64_t rows, cols, ld;
};
struct CublasltHostPreference {
  uint64_t workspace = 0;
  uint32_t mask = 7;
  uint32_t alignment[4] = {256, 256, 256, 256};  // A, B, C, D
};

namespace {

using dither::round_nearest;

/// An algorithm: how K is split, what it needs, whether it has the epilogues beyond a bias. Best first.
struct Known {
  int tile, stages, split_k;
  cublasLtReductionScheme_t scheme;
  uint64_t alignment;
  bool all_epilogues;
};
constexpr std::array<Known, 5> kKnown = {{
    {20, 11, 2, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, 16, true},
    {24, 12, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 256, true},
    {18, 13, 4, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 16, false},
    {21, 14, 3, CUBLASLT_REDUCTION_SCHEME_INPLACE, 16, false},
    {15, 15, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 16, true},
}};
constexpr uint64_t kFirstWord = 0xD17E5000;  // of an algorithm's description: this plus its place in kKnown

int g_live = 0;
size_t g_version = 130100;
dither::cuda_host::ProductFilter g_delayed = nullptr;
std::chrono::duration<double> g_delay{0};

template <class T, class... Arguments>
cublasStatus_t create(T** object, Arguments... arguments) {
  *object = new T{arguments...};
  ++g_live;
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t destroy(T* object) {
  if (object == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  --g_live;
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

template <class Field>
cublasStatus_t assign(Field& field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(Field)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

const Known* known(const cublasLtMatmulAlgo_t* algo) {
  if (algo == nullptr || algo->data[0] < kFirstWord || algo->data[0] >= kFirstWord + kKnown.size()) return nullptr;
  for (size_t i = 1; i < 8; ++i) {
    if (algo->data[i] != 0) return nullptr;
  }
  return &kKnown[algo->data[0] - kFirstWord];
}

bool aligned(const void* pointer, uint64_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

/// A product whose descriptors agree with each other. Copies them: they may change once a call has returned.
struct Problem {
  CublasltHostDesc desc;
  CublasltHostLayout a, b, c, d;
  int64_t m, n, k;

  bool gelu() const { return (desc.epilogue & 32) != 0; }
  bool bias() const { return (desc.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
  bool bias_gradient() const { return desc.epilogue == CUBLASLT_EPILOGUE_BGRADB; }
};

cublasStatus_t describe(const CublasltHostDesc* desc, const CublasltHostLayout* a, const CublasltHostLayout* b,
                        const CublasltHostLayout* c, const CublasltHostLayout* d, Problem& p) {
  for (const CublasltHostLayout* layout : {a, b, c, d}) {
    if (layout == nullptr || layout->rows < 1 || layout->cols < 1 || layout->ld < layout->rows) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  if (desc == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  const bool ta = desc->transa == CUBLAS_OP_T, tb = desc->transb == CUBLAS_OP_T;
  p = {*desc, *a, *b, *c, *d, d->rows, d->cols, ta ? a->rows : a->cols};
  const bool fits = (ta ? a->cols : a->rows) == p.m && (tb ? b->rows : b->cols) == p.n &&
                    (tb ? b->cols : b->rows) == p.k && c->rows == p.m && c->cols == p.n;
  if (!fits) return CUBLAS_STATUS_INVALID_VALUE;
  const bool needs_bias = p.bias() || p.bias_gradient();
  if (needs_bias && (desc->bias == nullptr || (desc->bias_type != -1 && desc->bias_type != d->type))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (p.gelu() && (desc->aux == nullptr || desc->aux_ld % 8 != 0 || desc->aux_ld < p.m)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool types = a->type == b->type && c->type == d->type && (a->type == CUDA_R_16BF || d->type == CUDA_R_32F);
  const bool rare = p.gelu() || p.bias_gradient();
  const bool offered = !rare || (a->type == CUDA_R_16BF && (!p.gelu() || p.n > 1));
  return types && offered ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

bool has_epilogue(const Known& algorithm, const Problem& p) {
  return algorithm.all_epilogues || (!p.gelu() && !p.bias_gradient());
}
size_t workspace_of(const Known& algorithm, const Problem& p) {
  if (algorithm.scheme != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return 0;
  return static_cast<size_t>(algorithm.split_k) * static_cast<size_t>(p.m * p.n) * sizeof(float);
}

float load(const void* memory, cudaDataType_t type, int64_t at) {
  return type == CUDA_R_32F ? static_cast<const float*>(memory)[at]
                            : dither::to_float(static_cast<const dither::Bf16*>(memory)[at]);
}
void store(void* memory, cudaDataType_t type, int64_t at, float value) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(memory)[at] = value;
  } else {
    static_cast<dither::Bf16*>(memory)[at] = round_nearest(value);
  }
}
float rounded(float value, cudaDataType_t type) { return type == CUDA_R_32F ? value : dither::as_bf16(value); }

/// Runs one product, column by column of D.
struct Run {
  Problem p;
  Known algorithm;
  float alpha, beta;
  const void *A, *B, *C;
  void *D, *workspace;

  std::vector<float> left;  // op(A) as [k][m]

  void operator()() {
    const auto begin = std::chrono::steady_clock::now();
    left.resize(static_cast<size_t>(p.m * p.k));
    const bool transposed = p.desc.transa == CUBLAS_OP_T;
    for (int64_t l = 0; l < p.k; ++l) {
      for (int64_t i = 0; i < p.m; ++i) {
        left[static_cast<size_t>(l * p.m + i)] = load(A, p.a.type, transposed ? l + i * p.a.ld : i + l * p.a.ld);
      }
    }
    const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    dither::parallel_for(threads, p.n, [&](int64_t j) { column(j); });
    if (g_delayed != nullptr && g_delayed(algorithm.tile, p.gelu() || p.bias_gradient())) {
      std::this_thread::sleep_until(begin + g_delay);
    }
  }

  float right(int64_t l, int64_t j) const {
    return load(B, p.b.type, p.desc.transb == CUBLAS_OP_T ? j + l * p.b.ld : l + j * p.b.ld);
  }

  /// sums[i] = the part `split` of column j, in FP32 by rising k.
  void add_part(int64_t j, int split, float* sums) const {
    std::fill(sums, sums + p.m, 0.0f);
    for (int64_t l = p.k * split / algorithm.split_k; l < p.k * (split + 1) / algorithm.split_k; ++l) {
      const float b = right(l, j);
      const float* a = left.data() + l * p.m;
      for (int64_t i = 0; i < p.m; ++i) sums[i] += a[i] * b;
    }
  }

  void column(int64_t j) const {
    const auto m = static_cast<size_t>(p.m);
    std::vector<float> sums(m, 0.0f), own(m);
    for (int split = 0; split < algorithm.split_k; ++split) {
      float* part = own.data();
      if (algorithm.scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) {
        part = static_cast<float*>(workspace) + (split * p.n + j) * p.m;
      }
      add_part(j, split, part);
      for (size_t i = 0; i < m; ++i) {
        if (algorithm.scheme == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE) part[i] = rounded(part[i], p.d.type);
        sums[i] += part[i];
        if (algorithm.scheme == CUBLASLT_REDUCTION_SCHEME_INPLACE) sums[i] = rounded(sums[i], p.d.type);
      }
    }
    for (int64_t i = 0; i < p.m; ++i) finish(i, j, sums[static_cast<size_t>(i)]);
    if (p.bias_gradient()) {
      float sum = 0;
      for (int64_t l = p.k - 1; l >= 0; --l) sum += right(l, j);
      store(p.desc.bias, p.d.type, j, sum);
    }
  }

  void finish(int64_t i, int64_t j, float sum) const {
    float value = alpha * sum;
    if (beta != 0) value += beta * load(C, p.c.type, i + j * p.c.ld);
    if (p.bias()) value += load(p.desc.bias, p.d.type, i);
    if (p.gelu()) {
      store(p.desc.aux, p.d.type, i + j * p.desc.aux_ld, value);
      value = dither::gelu(value);
    }
    store(D, p.d.type, i + j * p.d.ld, value);
  }
};

}  // namespace

namespace dither::cuda_host {

int live_cublaslt_objects() { return g_live; }
void set_cublaslt_version(size_t version) { g_version = version; }
void delay_products(ProductFilter which, double seconds) {
  g_delayed = which;
  g_delay = std::chrono::duration<double>(seconds);
}

}  // namespace dither::cuda_host

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "an unknown status";
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the functionality requested is not supported";
  }
  return "an unknown status";
}
size_t cublasLtGetVersion() { return g_version; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return create(handle); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy(handle); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
  return create(desc);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { return destroy(desc); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return assign(desc->transa, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return assign(desc->transb, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return assign(desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return assign(desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return assign(desc->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return assign(desc->aux_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return assign(desc->bias_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  return create(layout, type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(layout); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) { return create(preference); }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return destroy(preference); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return assign(preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return assign(preference->mask, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return assign(preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  Problem p{};
  if (handle == nullptr || preference == nullptr || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t status = describe(desc, a, b, c, d, p);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const uint64_t stated = *std::min_element(preference->alignment, preference->alignment + 4);
  for (size_t i = 0; i < kKnown.size() && *found < wanted; ++i) {
    const Known& algorithm = kKnown[i];
    const bool wished = i == 0 || algorithm.split_k == 1 || (algorithm.scheme & preference->mask) != 0;
    const bool runs = has_epilogue(algorithm, p) && algorithm.alignment <= stated;
    if (!wished || !runs || workspace_of(algorithm, p) > preference->workspace) continue;
    results[(*found)++] = {{{kFirstWord + i}}, workspace_of(algorithm, p), CUBLAS_STATUS_SUCCESS, 1.0f, {}};
  }
  return *found > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result) {
  const Known* algorithm = known(algo);
  if (handle == nullptr || algorithm == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  Problem p{};
  const cublasStatus_t status = describe(desc, a, b, c, d, p);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (!has_epilogue(*algorithm, p)) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = workspace_of(*algorithm, p);
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                                    size_t bytes, size_t* written) {
  const Known* algorithm = known(algo);
  if (algorithm == nullptr || value == nullptr || bytes != sizeof(int32_t)) return CUBLAS_STATUS_INVALID_VALUE;
  int32_t answer = 0;
  switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
      answer = algorithm->tile;
      break;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
      answer = algorithm->split_k;
      break;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
      answer = algorithm->scheme;
      break;
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
      answer = algorithm->stages;
      break;
  }
  std::memcpy(value, &answer, bytes);
  if (written != nullptr) *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* A,
                              cublasLtMatrixLayout_t a, const void* B, cublasLtMatrixLayout_t b, const void* beta,
                              const void* C, cublasLtMatrixLayout_t c, void* D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  cublasLtMatmulHeuristicResult_t needs{};
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(handle, desc, a, b, c, d, algo, &needs);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  for (const void* pointer : {alpha, beta, A, B, C, static_cast<const void*>(D)}) {
    if (pointer == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const Known& algorithm = *known(algo);
  for (const void* pointer : {A, B, C, static_cast<const void*>(D)}) {
    if (!aligned(pointer, algorithm.alignment)) return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (needs.workspaceSize > 0 && (workspace == nullptr || !aligned(workspace, 16))) return CUBLAS_STATUS_INVALID_VALUE;
  if (needs.workspaceSize > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
  Run run{{},        algorithm, *static_cast<const float*>(alpha), *static_cast<const float*>(beta), A, B, C, D,
          workspace, {}};
  (void)describe(desc, a, b, c, d, run.p);
  dither::cuda_host::enqueue(stream, std::move(run));
  return CUBLAS_STATUS_SUCCESS;
}
