// The one function of the driver that host code asks the runtime for: making tensor maps. Its rules
// are those of the driver's public manual.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "ptxsim/cudart/status.h"
#include "ptxsim/tensor_map.h"

namespace ptxsim {
namespace {

constexpr u64 kStrideAlign = 16, kLargestStride = u64{1} << 40, kLargestSize = u64{1} << 32;
constexpr u32 kLargestBox = 256, kLargestStep = 8;

u8 bytes_of(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64: return 8;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ: return 4;
    default: return 0;  // packed formats below a byte
  }
}

CUresult encode_tiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* base,
                      const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                      CUtensorMapFloatOOBfill fill) {
  TensorMap map{};
  map.magic = TensorMap::kMagic;
  map.element = bytes_of(type);
  map.kind = static_cast<u8>(type);
  if (!map.element || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      swizzle > CU_TENSOR_MAP_SWIZZLE_128B)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (rank < 1 || rank > TensorMap::kDims || !out || reinterpret_cast<u64>(base) % kStrideAlign ||
      reinterpret_cast<u64>(out) % 64)
    return CUDA_ERROR_INVALID_VALUE;
  map.rank = static_cast<u8>(rank);
  map.swizzle = static_cast<u8>(swizzle);
  map.fill_nan = fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  map.base = reinterpret_cast<u64>(base);
  for (u32 i = 0; i < rank; ++i) {
    if (sizes[i] == 0 || sizes[i] > kLargestSize || box[i] == 0 || box[i] > kLargestBox ||
        steps[i] == 0 || steps[i] > kLargestStep)
      return CUDA_ERROR_INVALID_VALUE;
    map.size[i] = static_cast<u32>(sizes[i]);
    map.box[i] = box[i];
    map.step[i] = static_cast<u8>(steps[i]);
    if (i + 1 == rank) break;
    if (strides[i] % kStrideAlign || strides[i] >= kLargestStride) return CUDA_ERROR_INVALID_VALUE;
    map.stride[i] = strides[i];
  }
  const u32 row = map.box[0] * map.element;
  if (row % kStrideAlign) return CUDA_ERROR_INVALID_VALUE;
  if (map.swizzle && row > 16u << map.swizzle) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(out, &map, sizeof map);
  return CUDA_SUCCESS;
}

cudaError_t find(const char* name, void** function, cudaDriverEntryPointQueryResult* status) {
  const bool known = std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&encode_tiled) : nullptr;
  if (status) *status = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

}  // namespace
}  // namespace ptxsim

extern "C" {

#if CUDART_VERSION < 13000
cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long,
                                    cudaDriverEntryPointQueryResult* status) {
  return ptxsim::find(name, function, status);
}
#endif
#if CUDART_VERSION >= 12050
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  return ptxsim::find(name, function, status);
}
#endif

}  // extern "C"
