#include "attention/validate.h"

#include <cmath>

namespace mn {
namespace {

void check_heads(const Check& check, const AttentionTensors& t) {
  const Tensor& q = t.q;
  const bool dense = q.ndim == 4;
  const int64_t dim_qk = q.last();
  const char* names[] = {"q", t.k_name, t.v_name};
  const Tensor* tensors[] = {&q, &t.k, &t.v};
  for (int i = 0; i < 3; ++i) {
    check.on_device(*tensors[i], names[i]);
    check.dtype(*tensors[i], names[i], {DType::f32, DType::bf16});
    check.same_dtype(*tensors[i], names[i], q, "q");
    check.last_dim_contiguous(*tensors[i], names[i]);
  }
  if (dense) {
    check.shape(q, "q", {kAny, kAny, kAny, kAny}, "[B, T, Hq, Dqk]");
    check.shape(t.k, t.k_name, {q.shape[0], kAny, kAny, dim_qk}, "[B, S, Hkv, Dqk]");
    check.shape(t.v, t.v_name, {q.shape[0], t.k.shape[1], t.k.shape[2], kAny}, "[B, S, Hkv, Dv]");
  } else {
    check.shape(q, "q", {kAny, kAny, kAny}, "[N, Hq, Dqk]");
    check.shape(t.k, t.k_name, {kAny, kAny, dim_qk}, "[N, Hkv, Dqk]");
    check.shape(t.v, t.v_name, {t.k.shape[0], t.k.shape[1], kAny}, "[N, Hkv, Dv]");
  }
  const int64_t q_heads = q.shape[q.ndim - 2], kv_heads = t.k.shape[t.k.ndim - 2];
  if (kv_heads < 1 || q_heads < 1 || q_heads % kv_heads)
    check.fail(t.k_name, "kv heads that divide the " + std::to_string(q_heads) + " query heads",
               t.k.describe());
  if (dim_qk < 1 || t.v.last() < 1) check.fail(t.v_name, "head dims of at least 1", t.v.describe());
}

}  // namespace

void check_attention(const Check& check, const AttentionTensors& t,
                     const AttentionOptions& options) {
  check_heads(check, t);
  const auto& [scale, causal, window] = options;
  if (window && *window < 1)
    check.fail("window_keys", "None or at least 1", std::to_string(*window));
  if (window && !causal) check.fail("causal", "True beside window_keys", "False");
  const double factor = attention_scale(t, options);
  if (!(factor > 0 && std::isfinite(factor)))
    check.fail("scale", "a positive number", std::to_string(factor));
}

double attention_scale(const AttentionTensors& t, const AttentionOptions& options) {
  return options.scale.value_or(1.0 / std::sqrt(static_cast<double>(t.q.last())));
}

}  // namespace mn
