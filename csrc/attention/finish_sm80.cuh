// The end of a row: the sink, and from sums of weights to outputs.
#pragma once

#include "attention/lanes_sm80.cuh"
#include "attention/problem_sm80.h"

namespace mn {

// One row's softmax so far: the largest score, and the sum of weights relative to it.
struct Running {
  float most = -INFINITY, sum = 0;
};

// In logarithms of 2, as all scores are.
__device__ inline float sink_of(const AttentionSm80Problem& p, int head) {
  if (!p.sink) return -INFINITY;
  const float logit = p.sink_is_bf16
                          ? __bfloat162float(static_cast<const __nv_bfloat16*>(p.sink)[head])
                          : static_cast<const float*>(p.sink)[head];
  return logit * 1.4426950408889634f;
}

// What turns sums relative to 2^most into outputs, the sink included; and the lse.
struct Finish {
  float factor, lse;
};

__device__ inline Finish finish(float most, float sum, float sink) {
  const float top = fmaxf(most, sink);
  if (top == -INFINITY) return {0, -INFINITY};
  const float own = fast_exp2(most - top), total = fmaf(sum, own, fast_exp2(sink - top));
  return {own / total, (top + fast_log2(total)) * 0.6931471805599453f};
}

// `token` counts all tokens.
__device__ inline void store_lse(const AttentionSm80Problem& p, int sequence, int head,
                                 int64_t token, float lse) {
  if (!p.lse) return;
  const int64_t within = p.q_edges.data ? token : token - int64_t{sequence} * p.q_tokens;
  p.lse[sequence * p.lse_row_stride + head * p.lse_head_stride + within] = lse;
}

__device__ inline void store_statistics(const AttentionSm80Problem& p, int64_t token, int head,
                                        float most, float sum) {
  const int64_t at = (blockIdx.z * int64_t{p.total_q} + token) * p.q_heads + head;
  reinterpret_cast<float2*>(p.partial_stats)[at] = make_float2(most, sum);
}

}  // namespace mn
