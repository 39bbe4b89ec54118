#include "tests/cuda_host/tensor_map.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace {

constexpr uint64_t kEncoded = 0x70616D2D726F736E;  // the first word of a map

struct Words {
  uint64_t encoded;
  dither::cuda_host::DecodedMap map;
};
static_assert(sizeof(Words) <= sizeof(CUtensorMap));

bool within(uint64_t x, uint64_t least, uint64_t most) { return x >= least && x <= most; }

}  // namespace

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* memory,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  constexpr uint64_t kBytes = 2;  // of an element
  bool fine = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 && rank == 4 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
              swizzle == CU_TENSOR_MAP_SWIZZLE_128B && promotion == CU_TENSOR_MAP_L2_PROMOTION_L2_256B &&
              fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  fine &= reinterpret_cast<uintptr_t>(memory) % 16 == 0 && box[0] * kBytes == 128;
  for (int i = 0; i < 4; ++i) {
    fine &= within(sizes[i], 1, uint64_t{1} << 32) && within(box[i], 1, 256) && steps[i] == 1;
  }
  for (int i = 0; i < 3; ++i) {
    const uint64_t inner = i == 0 ? sizes[0] * kBytes : sizes[i] * strides[i - 1];  // bytes of what the stride passes
    fine &= strides[i] % 16 == 0 && within(strides[i], inner, (uint64_t{1} << 40) - 1);
    fine &= i == 0 || strides[i] % strides[i - 1] == 0;
  }
  if (!fine) return CUDA_ERROR_INVALID_VALUE;
  Words words{kEncoded, {static_cast<const unsigned char*>(memory), {}, {}, {}}};
  std::memcpy(words.map.sizes, sizes, sizeof(words.map.sizes));
  std::memcpy(words.map.strides, strides, sizeof(words.map.strides));
  std::memcpy(words.map.box, box, sizeof(words.map.box));
  std::memset(map, 0, sizeof(*map));
  std::memcpy(map->opaque, &words, sizeof(words));
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult* found) {
  const bool known = std::string(symbol) == "cuTensorMapEncodeTiled" && version >= 12000 && flags == cudaEnableDefault;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

namespace dither::cuda_host {

DecodedMap decode(const TensorMap& map) {
  Words words;
  std::memcpy(&words, map.words, sizeof(words));
  if (words.encoded != kEncoded) throw std::logic_error("a bulk copy by a tensor map that nothing has encoded");
  return words.map;
}

}  // namespace dither::cuda_host
