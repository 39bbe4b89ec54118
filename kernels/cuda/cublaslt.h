// cuBLASLt, and the one check of its status. Compiled as plain C++, as the tests do, the calls are those of the host's
// stand-in (tests/cuda_host/cublaslt.h).
#pragma once

#ifdef __CUDACC__
#include <cublasLt.h>
#else
#include "tests/cuda_host/cublaslt.h"
#endif

#include <memory>
#include <string>
#include <type_traits>

#include "base/error.h"

namespace dither::cuda {

/// Throws Error "<what>: CUBLAS_STATUS_NOT_SUPPORTED (operation not supported), kernels/cuda/matrix_product.cu:61"
/// unless it succeeded. `what` is a function that gives the text, called upon failure alone: no text is built while all
/// goes well.
template <class What>
void check_cublaslt(cublasStatus_t status, const What& what, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(std::string(what()) + ": " + cublasLtGetStatusName(status) + " (" + cublasLtGetStatusString(status) +
              "), " + file + ":" + std::to_string(line));
}

/// Owns one of the library's objects; nothing useful can be done where its destruction fails.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct CublasltDestroyer {
  void operator()(Handle handle) const { (void)destroy(handle); }
};
template <class Handle, cublasStatus_t (*destroy)(Handle)>
using CublasltOwner = std::unique_ptr<std::remove_pointer_t<Handle>, CublasltDestroyer<Handle, destroy>>;

using CublasltHandle = CublasltOwner<cublasLtHandle_t, cublasLtDestroy>;
using MatmulDescriptor = CublasltOwner<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using MatrixLayout = CublasltOwner<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using MatmulPreference = CublasltOwner<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

}  // namespace dither::cuda
