// Arguments to problems, with every check: shared by the CPU and the CUDA bindings, which make the
// outputs afterwards.
#pragma once

#include "norm_rope/problem.h"
#include "runtime/check.h"

namespace mn {

RmsNormProblem rms_norm_problem(const Check& check, const Tensor& x, const Tensor& weight,
                                double eps);

}  // namespace mn
