// For host code that hands kernels memory which no call of the runtime allocated.
#pragma once

#include <cstddef>

namespace ptxsim {

// Kernels may use this memory until the tests' next gpu_forget_outputs(), and may not read it
// before it is written.
void add_gpu_output(void* data, std::size_t bytes);

}  // namespace ptxsim
