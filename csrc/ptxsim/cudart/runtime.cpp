// The CUDA runtime's functions about devices, memory, streams and errors, after its public manual.
// Streams run at once: what is enqueued is done when the call returns.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "ptxsim/cudart/gpu.h"
#include "ptxsim/cudart/status.h"

using ptxsim::Gpu;
using ptxsim::remember;

namespace ptxsim {

cudaError_t& last_error() {
  thread_local cudaError_t error = cudaSuccess;
  return error;
}

namespace {

constexpr int kThreadsPerMultiprocessor = 2048, kBlocksPerMultiprocessor = 32;
constexpr size_t kSharedPerMultiprocessor = 228 * 1024, kReserved = 1024;

int attribute(cudaDeviceAttr which) {
  const GpuOptions options = Gpu::instance().options();
  switch (which) {
    case cudaDevAttrMultiProcessorCount: return static_cast<int>(options.multiprocessors);
    case cudaDevAttrComputeCapabilityMajor: return options.major;
    case cudaDevAttrComputeCapabilityMinor: return options.minor;
    case cudaDevAttrMaxSharedMemoryPerBlock: return Gpu::kSharedByDefault;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return Gpu::kSharedAtMost;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return kSharedPerMultiprocessor;
    case cudaDevAttrReservedSharedMemoryPerBlock: return kReserved;
    case cudaDevAttrMaxThreadsPerBlock: return 1024;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return kThreadsPerMultiprocessor;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return kBlocksPerMultiprocessor;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrL2CacheSize: return 50 << 20;
    case cudaDevAttrCooperativeLaunch: return 1;
    case cudaDevAttrMemoryPoolsSupported: return 1;
    default: return 0;
  }
}

void copy(void* to, const void* from, size_t bytes) {
  std::memmove(to, from, bytes);
  Gpu::instance().mark_written(to, bytes);
}

}  // namespace
}  // namespace ptxsim

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return remember(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  if (device != 0) return remember(cudaErrorInvalidDevice);
  *value = ptxsim::attribute(which);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return remember(cudaErrorInvalidDevice);
  std::memset(static_cast<void*>(properties), 0, sizeof *properties);
  std::strcpy(properties->name, "ptxsim");
  properties->major = ptxsim::attribute(cudaDevAttrComputeCapabilityMajor);
  properties->minor = ptxsim::attribute(cudaDevAttrComputeCapabilityMinor);
  properties->multiProcessorCount = ptxsim::attribute(cudaDevAttrMultiProcessorCount);
  properties->warpSize = 32;
  properties->totalGlobalMem = size_t{80} << 30;
  properties->sharedMemPerBlock = Gpu::kSharedByDefault;
  properties->sharedMemPerBlockOptin = Gpu::kSharedAtMost;
  properties->sharedMemPerMultiprocessor = ptxsim::kSharedPerMultiprocessor;
  properties->regsPerBlock = 65536;
  properties->regsPerMultiprocessor = 65536;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = ptxsim::kThreadsPerMultiprocessor;
  properties->maxBlocksPerMultiProcessor = ptxsim::kBlocksPerMultiprocessor;
  properties->l2CacheSize = ptxsim::attribute(cudaDevAttrL2CacheSize);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  *pointer = bytes ? Gpu::instance().allocate(bytes) : nullptr;
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) {
  return cudaMalloc(pointer, bytes);
}
cudaError_t cudaFree(void* pointer) {
  const bool fine = pointer == nullptr || Gpu::instance().free(pointer);
  return remember(fine ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return cudaFree(pointer); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  ptxsim::copy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  ptxsim::copy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
  Gpu::instance().mark_written(to, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(to, value, bytes);
}
cudaError_t cudaGetSymbolAddress(void** pointer, const void* symbol) {
  *pointer = Gpu::instance().variable(symbol, nullptr);
  return remember(*pointer ? cudaSuccess : cudaErrorInvalidSymbol);
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                               cudaMemcpyKind) {
  size_t size = 0;
  auto* to = static_cast<unsigned char*>(Gpu::instance().variable(symbol, &size));
  if (!to) return remember(cudaErrorInvalidSymbol);
  if (offset + bytes > size) return remember(cudaErrorInvalidValue);
  std::memcpy(to + offset, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(ptxsim::last_error(), cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return ptxsim::last_error(); }
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidSymbol: return "cudaErrorInvalidSymbol";
    case cudaErrorInvalidDeviceFunction: return "cudaErrorInvalidDeviceFunction";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    default: return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorLaunchFailure: return "the checkers found mistakes in a launch";
    case cudaErrorNoKernelImageForDevice: return "no PTX text for the simulated device";
    default: return cudaGetErrorName(error);
  }
}

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = nullptr;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
// There is no time to tell.
cudaError_t cudaEventElapsedTime(float*, cudaEvent_t, cudaEvent_t) {
  return remember(cudaErrorNotSupported);
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute which, int value) {
  if (which != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<ptxsim::u32>(value) > Gpu::kSharedAtMost)
    return remember(cudaErrorInvalidValue);
  Gpu::instance().allow_shared(function, static_cast<ptxsim::u32>(value));
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const ptxsim::Program* program = Gpu::instance().program_of(function);
  if (!program) return remember(cudaErrorInvalidDeviceFunction);
  std::memset(static_cast<void*>(attributes), 0, sizeof *attributes);
  attributes->sharedSizeBytes = program->shared_bytes;
  attributes->localSizeBytes = program->local_bytes;
  attributes->maxThreadsPerBlock =
      program->max_threads.x ? static_cast<int>(program->max_threads.count()) : 1024;
  attributes->maxDynamicSharedSizeBytes =
      static_cast<int>(Gpu::instance().allowed_shared(function));
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks,
                                                                   const void* function,
                                                                   int threads, size_t dynamic,
                                                                   unsigned) {
  const ptxsim::Program* program = Gpu::instance().program_of(function);
  if (!program || threads <= 0) return remember(cudaErrorInvalidValue);
  const size_t shared = program->shared_bytes + dynamic + ptxsim::kReserved;
  *blocks = std::min({ptxsim::kThreadsPerMultiprocessor / threads,
                      static_cast<int>(ptxsim::kSharedPerMultiprocessor / shared),
                      ptxsim::kBlocksPerMultiprocessor});
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t dynamic) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, dynamic,
                                                                0);
}

}  // extern "C"
