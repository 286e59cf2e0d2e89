// The CUDA runtime as far as the bindings use it themselves.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "runtime/cuda/properties.h"

namespace mn {

// Throws std::runtime_error "OP: CUDA error NAME: text".
void throw_on_error(cudaError_t status, const char* op);

// Makes `device` current for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// Throws UnsupportedError where the kernels cannot run on this device.
Gpu gpu_of(int device, const char* op);

// Lets a kernel have more dynamic shared memory than every device grants without being asked.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
  constexpr int kAlwaysGranted = 48 << 10;
  if (bytes <= kAlwaysGranted) return;
  throw_on_error(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                 "cudaFuncSetAttribute");
}

// Why no kernel can run on this machine; empty when one can.
std::string unavailable_reason();

// "13.0"; the runtime this module was built with, and the driver's newest ("" without a driver).
std::string runtime_version();
std::string driver_version();

}  // namespace mn
