// From checked arguments to a kernel: plan, scratch, call. Needs no Python.
#pragma once

#include <vector>

#include "gemm/problem.h"

namespace mn {

// y = x W^T for rows sorted by group; y is dense [rows, outputs].
void run_gemm(const RowSource& x, const Weights& w, const int64_t* group_sizes, int64_t groups,
              void* y, bool y_bf16);

// dw[g] = dy_g^T x_g, dense [groups, outputs, inputs].
void run_weight_grad(const RowSource& dy, const RowSource& x, const std::vector<int64_t>& sizes,
                     int64_t outputs, int64_t inputs, Format format, void* dw, bool dw_bf16);

}  // namespace mn
