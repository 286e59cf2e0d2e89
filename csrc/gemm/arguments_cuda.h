// Tensors to products on a GPU, with every check: shared by the bindings of gemm and experts.
#pragma once

#include "gemm/arguments.h"
#include "gemm/kernels_cuda.h"
#include "runtime/cuda/launch.h"

namespace mn {

// Of rows, outputs, inputs and weights, so that sums of two of them fit into 32 bits.
inline constexpr int64_t kMostGpuSize = int64_t{1} << 30;

// Rows of x, all dimensions but the last; a row may be empty.
int64_t row_count(const Tensor& x);

// The product of rows with plain weights, all but its output: a weight [N, K], or G of them.
// Raises UnsupportedError for sizes that the kernels' 32 bits cannot hold.
GemmSm80Problem product_argument(const Check& check, const RowSource& x, int64_t rows,
                                 const Weights& weights, GemmOutput output);

// The plan of a product that has something to do; UnsupportedError where no grid holds it.
GemmSm80Plan plan_product(const Check& check, const GemmSm80Problem& problem, bool grouped,
                          const Gpu& gpu, std::optional<int> tile = std::nullopt);

}  // namespace mn
