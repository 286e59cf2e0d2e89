// Registration of kernels by the start-up code that nvcc puts into every object, and their launch.
#include <cuda_runtime_api.h>

#include <vector>

#include "ptxsim/cudart/gpu.h"
#include "ptxsim/cudart/status.h"

using ptxsim::Gpu;

namespace ptxsim {
namespace {

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

// Of kernel<<<...>>> statements, between the brackets and the call.
std::vector<Configuration>& configurations() {
  thread_local std::vector<Configuration> stack;
  return stack;
}

Dim3 dims(const dim3& d) { return {d.x, d.y, d.z}; }

cudaError_t run(const void* function, const dim3& grid, const dim3& block, const Dim3& cluster,
                void** arguments, size_t shared) {
  switch (Gpu::instance().launch(function, dims(grid), dims(block), cluster, arguments, shared)) {
    case LaunchStatus::done: return cudaSuccess;
    case LaunchStatus::no_function: return remember(cudaErrorInvalidDeviceFunction);
    case LaunchStatus::no_image: return remember(cudaErrorNoKernelImageForDevice);
    case LaunchStatus::bad_shape: return remember(cudaErrorInvalidConfiguration);
    case LaunchStatus::too_much_shared: return remember(cudaErrorInvalidValue);
    case LaunchStatus::found_mistakes: break;
  }
  return remember(cudaErrorLaunchFailure);
}

}  // namespace
}  // namespace ptxsim

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  return static_cast<void**>(Gpu::instance().add_binary(wrapper));
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterFunction(void** binary, const char* host, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  Gpu::instance().add_function(host, binary, name);
}
void __cudaRegisterVar(void** binary, char* host, char*, const char* name, int, size_t, int, int) {
  Gpu::instance().add_variable(host, binary, name);
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  ptxsim::configurations().push_back({grid, block, shared, static_cast<cudaStream_t>(stream)});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (ptxsim::configurations().empty()) return ptxsim::remember(cudaErrorInvalidValue);
  const ptxsim::Configuration c = ptxsim::configurations().back();
  ptxsim::configurations().pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}

// A kernel handle is the address of its host stub.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t) {
  return ptxsim::run(kernel, grid, block, {1, 1, 1}, arguments, shared);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t) {
  return ptxsim::run(function, grid, block, {1, 1, 1}, arguments, shared);
}
cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block,
                                        void** arguments, size_t shared, cudaStream_t) {
  return ptxsim::run(function, grid, block, {1, 1, 1}, arguments, shared);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  ptxsim::Dim3 cluster{1, 1, 1};
  for (unsigned i = 0; i < config->numAttrs; ++i)
    if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) {
      const auto& c = config->attrs[i].val.clusterDim;
      cluster = {c.x, c.y, c.z};
    }
  return ptxsim::run(function, config->gridDim, config->blockDim, cluster, arguments,
                     config->dynamicSmemBytes);
}

}  // extern "C"
