// What every CUDA binding does around a launch: the right device, torch's current stream, the GIL
// released, errors with a name.
#pragma once

#include <cuda_runtime_api.h>

#include "runtime/check.h"
#include "runtime/cuda/device.h"
#include "runtime/tensor_caster.h"

namespace mn {

inline constexpr Device kCudaDevice = Device::cuda;

// Calls launch(stream), which only enqueues work, with the device of `tensor` current.
template <class F>
void launch_on_device_of(const Tensor& tensor, const char* op, const F& launch) {
  auto* stream = static_cast<cudaStream_t>(current_stream(tensor));
  const pybind11::gil_scoped_release release;
  const DeviceScope scope(tensor.device_index);
  launch(stream);
  throw_on_error(cudaGetLastError(), op);
}

}  // namespace mn
