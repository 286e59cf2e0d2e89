// The runtime's error state: each call returns its error and leaves it for cudaGetLastError.
#pragma once

#include <cuda_runtime_api.h>

namespace ptxsim {

cudaError_t& last_error();  // of this thread

inline cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error() = error;
  return error;
}

}  // namespace ptxsim
