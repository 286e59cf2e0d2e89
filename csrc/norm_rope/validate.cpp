#include "norm_rope/validate.h"

namespace mn {

RmsNormProblem rms_norm_problem(const Check& check, const Tensor& x, const Tensor& weight,
                                double eps) {
  check.ndim_at_least(x, "x", 1, "[.., D]");
  check.on_device(x, "x");
  check.dtype(x, "x", {DType::f32, DType::bf16});
  check.last_dim_contiguous(x, "x");
  check.shape(weight, "weight", {x.last()}, "[D]");
  check.same_device(weight, "weight", x, "x");
  check.contiguous(weight, "weight");
  check.dtype(weight, "weight", {x.dtype, DType::f32});
  if (!(eps > 0)) check.fail("eps", "a positive number", std::to_string(eps));
  // Leading dimensions form one row index only when they are evenly spaced.
  if (x.ndim > 2) check.contiguous(x, "x");
  return {.rows = x.rows(),
          .dim = x.last(),
          .x_stride = x.ndim >= 2 ? x.stride[x.ndim - 2] : x.last(),
          .eps = static_cast<float>(eps),
          .x = x.data,
          .weight = weight.data,
          .y = nullptr};
}

}  // namespace mn
