#include "norm_rope/validate.h"

namespace mn {
namespace {

constexpr int64_t kMostRotaryDims = 65536;

RopeTensor rope_tensor(const Check& check, const Tensor& t, const char* argument, const Tensor& q) {
  check.shape(t, argument, {q.shape[0], kAny, kAny}, "[N, H, D]");
  check.same_device(t, argument, q, "q");
  check.dtype(t, argument, {q.dtype});
  check.last_dim_contiguous(t, argument);
  return {.heads = t.shape[1],
          .dim = t.shape[2],
          .token_stride = t.stride[0],
          .head_stride = t.stride[1],
          .in = t.data,
          .out = nullptr};
}

}  // namespace

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

int64_t rope_table_tokens(const Check& check, const Tensor& positions, double theta,
                          int64_t rotary_dim) {
  check.shape(positions, "positions", {kAny}, "[N]");
  check.on_device(positions, "positions");
  check.dtype(positions, "positions", {DType::i64});
  check.contiguous(positions, "positions");
  if (!(theta > 0)) check.fail("theta", "a positive number", std::to_string(theta));
  check.range(rotary_dim, "rotary_dim", 0, kMostRotaryDims);
  if (rotary_dim % 2) check.fail("rotary_dim", "an even number", std::to_string(rotary_dim));
  return positions.shape[0];
}

RopeProblem rope_problem(const Check& check, const Tensor& q, const Tensor& k, const Tensor& v,
                         const Tensor& table, double value_scale, bool opposite) {
  check.dtype(q, "q", {DType::f32, DType::bf16});
  check.shape(q, "q", {kAny, kAny, kAny}, "[N, Hq, Dqk]");
  check.on_device(q, "q");
  check.shape(table, "table", {q.shape[0], kAny}, "[N, rotary_dim]");
  check.dtype(table, "table", {DType::f32});
  check.contiguous(table, "table");
  check.same_device(table, "table", q, "q");
  const int64_t rotary_dim = table.shape[1];
  check.shape(k, "k", {q.shape[0], kAny, q.shape[2]}, "[N, Hkv, Dqk]");
  if (rotary_dim > q.shape[2])
    check.fail("table", "rotary_dim of at most the head dim " + std::to_string(q.shape[2]),
               std::to_string(rotary_dim));
  return {.tokens = q.shape[0],
          .rotary_dim = rotary_dim,
          .table = table.as<float>(),
          .value_scale = static_cast<float>(value_scale),
          .q = rope_tensor(check, q, "q", q),
          .k = rope_tensor(check, k, "k", q),
          .v = rope_tensor(check, v, "v", q),
          .opposite = opposite};
}

}  // namespace mn
