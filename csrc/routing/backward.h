// The gradient of the weights and of the mean scores with respect to the logits. With
// w_k = c s_k / S, S = sum of the chosen s + 1e-20 (or 1), and P_e = mean over t of s_e / Z,
// Z = sum of all s + 1e-20:
//
//   ds_k += c (dw_k - sum_j dw_j s_j / S) / S       ds_e += (dP_e - sum_j dP_j s_j / Z) / (T Z)
//   sigmoid: dx = ds s (1 - s)                      softmax: dx = s (ds - sum_j ds_j s_j)
#pragma once

#include "routing/forward.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE void add_weight_gradient(const RouteRule& rule, const float* scores, const int32_t* ids,
                                   const float* grad, int64_t k, float* ds) {
  alignas(64) float chosen[kRouteMaxExperts];
  const float sum = chosen_scores(scores, ids, k, chosen) + 1e-20f;
  float dot = 0.f;
  for (int64_t i = 0; i < k; ++i) dot += grad[i] * (chosen[i] / sum);
  for (int64_t i = 0; i < k; ++i)
    ds[ids[i]] += rule.scaling * (rule.normalize ? (grad[i] - dot) / sum : grad[i]);
}

MN_INLINE float dot_row(const float* a, const float* b, int64_t n) {
  f32x16 sum = f32x16::zero();
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    sum = fma(f32x16::load_n(a + i, lanes), f32x16::load_n(b + i, lanes), sum);
  }
  return reduce_add(sum);
}

MN_INLINE void add_share_gradient(const float* scores, const float* grad, int64_t experts,
                                  int64_t tokens, float* ds) {
  const float sum = sum_row(scores, experts) + 1e-20f;
  const f32x16 dot = f32x16::set1(dot_row(scores, grad, experts) / sum);
  const f32x16 scale = f32x16::set1(1.f / (static_cast<float>(tokens) * sum));
  for (int64_t i = 0; i < experts; i += 16) {
    const f32x16 g = f32x16::load_n(grad + i, lanes_left(experts, i));
    fma(g - dot, scale, f32x16::load(ds + i)).store(ds + i);
  }
}

MN_INLINE void route_backward_token(const RouteBackwardProblem& p, int64_t t, RouteRow& row) {
  const float* x = p.logits + t * p.logits_stride;
  float* ds = row.keys;
  score_row(x, p.experts, p.rule.scoring, row.scores);
  for (int64_t i = 0; i < p.experts; i += 16) f32x16::zero().store(ds + i);
  if (p.grad_weights)
    add_weight_gradient(p.rule, row.scores, p.ids + t * p.top_k, p.grad_weights + t * p.top_k,
                        p.top_k, ds);
  if (p.grad_mean_score) add_share_gradient(row.scores, p.grad_mean_score, p.experts, p.tokens, ds);

  const bool softmax = p.rule.scoring == Scoring::softmax;
  const f32x16 dot = f32x16::set1(softmax ? dot_row(row.scores, ds, p.experts) : 0.f);
  float* out = p.grad_logits + t * p.experts;
  for (int64_t i = 0; i < p.experts; i += 16) {
    const int lanes = lanes_left(p.experts, i);
    const f32x16 s = f32x16::load(row.scores + i), g = f32x16::load(ds + i);
    // sigmoid(-x), because 1 - s has lost its digits where s is close to 1.
    const f32x16 dx =
        softmax ? s * (g - dot) : g * s * sigmoid(f32x16::zero() - f32x16::load_n(x + i, lanes));
    dx.store_n(out + i, lanes);
  }
}

void route_backward(const RouteBackwardProblem& p) {
  parallel_for(route_jobs(p.tokens), p.tokens * p.experts, kRouteGrain, [&](int64_t job) {
    RouteRow row;
    const int64_t begin = job * kRouteTokensPerJob;
    const int64_t end =
        begin + kRouteTokensPerJob < p.tokens ? begin + kRouteTokensPerJob : p.tokens;
    for (int64_t t = begin; t < end; ++t) route_backward_token(p, t, row);
  });
}

}  // namespace
}  // namespace mn::MN_ISA
