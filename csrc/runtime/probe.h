// What this machine can do at most: arithmetic and memory reads at the ISA level in use. Benchmarks
// and speed estimates divide by these.
#pragma once

#include <cstdint>

#include "runtime/isa.h"

namespace mn {

// What one thread does; the results only keep the work from being optimised away.
struct ProbeKernels {
  // `rounds` times `chains` independent multiply-adds of 16 lanes, one operand pair (bf16: two).
  int chains;
  float (*multiply_add_f32)(int64_t rounds);
  float (*multiply_add_bf16)(int64_t rounds);
  // Of bytes into 32-bit sums, or of floats where the level has no such instruction.
  int int8_products;  // of a lane
  float (*multiply_add_int8)(int64_t rounds);
  float (*read)(const float* data, int64_t count);  // count is a multiple of 512
};

MN_DECLARE_KERNELS(ProbeKernels, probe_kernels)

}  // namespace mn
