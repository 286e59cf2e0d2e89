// What every CUDA binding does around a launch: the right device, torch's current stream, the GIL
// released, errors with a name.
#pragma once

#include <cuda_runtime_api.h>

#include "runtime/check.h"
#include "runtime/cuda/device.h"
#include "runtime/tensor_caster.h"

namespace mn {

#ifdef MN_SIMULATED_GPU  // csrc/ptxsim runs the kernels on the tensors of the CPU
inline constexpr Device kCudaDevice = Device::cpu;
inline cudaStream_t stream_of(const Tensor&) { return nullptr; }
#else
inline constexpr Device kCudaDevice = Device::cuda;
inline cudaStream_t stream_of(const Tensor& tensor) {
  return static_cast<cudaStream_t>(current_stream(tensor));
}
#endif

// Calls launch(stream), which only enqueues work, with the device of `tensor` current.
template <class F>
void launch_on_device_of(const Tensor& tensor, const char* op, const F& launch) {
  const cudaStream_t stream = stream_of(tensor);
  const pybind11::gil_scoped_release release;
  const DeviceScope scope(tensor.device_index);
  launch(stream);
  throw_on_error(cudaGetLastError(), op);
}

}  // namespace mn
