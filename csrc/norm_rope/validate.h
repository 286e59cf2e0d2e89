// Arguments to problems, with every check: shared by the CPU and the CUDA bindings, which make the
// outputs afterwards.
#pragma once

#include "norm_rope/problem.h"
#include "runtime/check.h"

namespace mn {

RmsNormProblem rms_norm_problem(const Check& check, const Tensor& x, const Tensor& weight,
                                double eps);

// The number of positions.
int64_t rope_table_tokens(const Check& check, const Tensor& positions, double theta,
                          int64_t rotary_dim);

RopeProblem rope_problem(const Check& check, const Tensor& q, const Tensor& k, const Tensor& v,
                         const Tensor& table, double value_scale, bool opposite);

}  // namespace mn
