// Checks of the arguments that products share: rows, weights and group sizes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gemm/problem.h"
#include "runtime/check.h"

namespace mn {

// x [.., K] as evenly spaced rows, in the dtype of the weights or bf16 rows for float32 weights.
RowSource rows_argument(const Check& check, const Tensor& x, const char* name,
                        const PackedLayout& weights);

// A packed weight (`layout` describes the bytes of `w`) or a plain tensor of `matrices` leading
// dimensions, 0 or 1, and [N, K].
Weights weights_argument(const Check& check, const Tensor& w, const PackedLayout* layout,
                         int matrices, const char* name, const char* symbols);

// The dtype of a product's result: that of the rows, or the one torch calls `out_dtype`.
DType result_dtype(const Check& check, const Tensor& x,
                   const std::optional<std::string>& out_dtype);

// Integer sizes [groups] that are not negative and add up to `total`.
std::vector<int64_t> group_sizes_argument(const Check& check, const Tensor& sizes, int64_t groups,
                                          int64_t total);

}  // namespace mn
