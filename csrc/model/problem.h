// What only the step needs of kernels: the residual stream's additions.
#pragma once

#include <cstdint>

#include "runtime/isa.h"

namespace mn {

// x[i] += y[i], the sum in float32, rounded once.
struct AddProblem {
  int64_t count;
  void* x;
  const void* y;
};

struct ModelKernels {
  void (*add_f32)(const AddProblem&);
  void (*add_bf16)(const AddProblem&);
};

MN_DECLARE_KERNELS(ModelKernels, model_kernels)

}  // namespace mn
