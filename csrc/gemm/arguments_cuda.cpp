#include "gemm/arguments_cuda.h"

namespace mn {

int64_t row_count(const Tensor& x) {
  int64_t count = 1;
  for (int i = 0; i < x.ndim - 1; ++i) count *= x.shape[i];
  return count;
}

GemmSm80Problem product_argument(const Check& check, const RowSource& x, int64_t rows,
                                 const Weights& weights, GemmOutput output) {
  const PackedLayout& l = weights.layout;
  for (const auto& [size, what] : {std::pair{rows, "rows"}, std::pair{l.outputs, "outputs"},
                                   std::pair{l.inputs, "inputs"}, std::pair{l.experts, "weights"}})
    if (size > kMostGpuSize)
      throw UnsupportedError(
          check.op(), {"cuda: at most 2^30 " + std::string(what) + ", got " + std::to_string(size)},
          "Split the call.");
  return {.rows = static_cast<int32_t>(rows),
          .outputs = static_cast<int32_t>(l.outputs),
          .inputs = static_cast<int32_t>(l.inputs),
          .groups = static_cast<int32_t>(l.experts),
          .x = x.data,
          .x_stride = x.stride,
          .index = nullptr,
          .w = weights.data,
          .w_stride = weights.row_stride,
          .group_stride = weights.expert_stride,
          .tiles = nullptr,
          .y = nullptr,
          .x_bf16 = x.bf16,
          .w_bf16 = l.format == Format::bf16,
          .output = output};
}

GemmSm80Plan plan_product(const Check& check, const GemmSm80Problem& problem, bool grouped,
                          const Gpu& gpu, std::optional<int> tile) {
  const GemmSm80Plan plan = plan_gemm_sm80(problem, grouped, gpu, tile);
  if (plan.blocks() > INT32_MAX)
    throw UnsupportedError(check.op(),
                           {"cuda: " + plan.describe() + " are more than a grid of 2^31 blocks"},
                           "Split the call.");
  return plan;
}

}  // namespace mn
