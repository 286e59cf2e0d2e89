// The end of a row: the sink, and from sums of weights to outputs.
#pragma once

#include "attention/lanes_sm80.cuh"
#include "attention/problem_sm80.h"

namespace mn {

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
  return {own / total, (top + log2f(total)) * 0.6931471805599453f};
}

}  // namespace mn
