// The one call of the driver that the kernels need. Its address is asked of the runtime, so that programs need not be
// linked with the driver's library and start where there is none.
#include "kernels/cuda/tensor_map.h"

#ifdef __CUDACC__
#include <cuda.h>
#else
#include "tests/cuda_host/tensor_map.h"
#endif

#include <bit>
#include <string>

#include "base/error.h"
#include "kernels/cuda/status.h"

namespace dither {

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);
static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));

Encode find_encode(const char* operation) {
  constexpr char kName[] = "cuTensorMapEncodeTiled";
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if defined(CUDART_VERSION) && CUDART_VERSION < 12050
  check_cuda(cudaGetDriverEntryPoint(kName, &function, cudaEnableDefault, &found), operation);
#else
  constexpr unsigned kSince = 12000;  // the CUDA version whose form of the call this is
  check_cuda(cudaGetDriverEntryPointByVersion(kName, &function, kSince, cudaEnableDefault, &found), operation);
#endif
  if (found != cudaDriverEntryPointSuccess) {
    throw Error(std::string(operation) + ": the driver has no " + kName + ", needs that of CUDA 12.0 or later");
  }
  return reinterpret_cast<Encode>(function);
}

}  // namespace

TensorMap tensor_map(const TiledTensor& tensor, const char* operation) {
  static const Encode encode = find_encode(operation);
  cuuint64_t sizes[4], strides[3];
  cuuint32_t box[4] = {kBoxColumns}, steps[4] = {1, 1, 1, 1};
  for (int i = 0; i < 4; ++i) sizes[i] = static_cast<cuuint64_t>(tensor.sizes[i]);
  for (int i = 0; i < 3; ++i) strides[i] = static_cast<cuuint64_t>(tensor.stride_bytes[i]);
  for (int i = 0; i < 3; ++i) box[i + 1] = static_cast<cuuint32_t>(tensor.boxes[i]);
  CUtensorMap map;
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(tensor.memory), sizes,
                                 strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    std::string text = std::string(operation) + ": cuTensorMapEncodeTiled: CUresult " + std::to_string(status);
    for (int i = 0; i < 4; ++i) {
      text += (i == 0 ? ", sizes " : "x") + std::to_string(tensor.sizes[i]);
    }
    for (int i = 0; i < 3; ++i) text += (i == 0 ? ", strides " : ", ") + std::to_string(tensor.stride_bytes[i]);
    throw Error(text + " bytes");
  }
  return std::bit_cast<TensorMap>(map);
}

}  // namespace dither
