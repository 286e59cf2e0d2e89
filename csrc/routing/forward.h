// Scores, selection, weights and statistics of one token after the other.
#pragma once

#include "routing/problem.h"
#include "routing/topk.h"
#include "runtime/parallel.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kRoutePrefetch = 4;     // tokens ahead
constexpr int64_t kRouteGrain = 1 << 15;  // logits below which one thread is faster

// One token's scores and selection keys: 0 and -inf from E to the next multiple of 64.
struct RouteRow {
  alignas(64) float scores[kRouteMaxExperts];
  alignas(64) float keys[kRouteMaxExperts];
};

MN_INLINE int lanes_left(int64_t n, int64_t i) { return n - i < 16 ? static_cast<int>(n - i) : 16; }

// s = sigmoid(x) or softmax(x) of x[0, n); 0 up to the next multiple of 16.
MN_INLINE void score_row(const float* x, int64_t n, Scoring scoring, float* s) {
  if (scoring == Scoring::sigmoid) {
    for (int64_t i = 0; i < n; i += 16) {
      const int lanes = lanes_left(n, i);
      select(first_lanes(lanes), sigmoid(f32x16::load_n(x + i, lanes)), f32x16::zero())
          .store(s + i);
    }
    return;
  }
  const f32x16 low = f32x16::set1(-__builtin_inff());
  f32x16 top = low, sum = f32x16::zero();
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    const f32x16 masked = select(first_lanes(lanes), f32x16::load_n(x + i, lanes), low);
    top = max(masked, top);  // drops a NaN, which the exponential meets again
    masked.store(s + i);
  }
  top = f32x16::set1(reduce_max(top));
  for (int64_t i = 0; i < n; i += 16) {
    const f32x16 e = exp(f32x16::load(s + i) - top);
    sum = sum + e;
    e.store(s + i);
  }
  const f32x16 total = f32x16::set1(reduce_add(sum));
  for (int64_t i = 0; i < n; i += 16) (f32x16::load(s + i) / total).store(s + i);
}

// keys = scores + bias; false if one is NaN.
MN_INLINE bool key_row(const float* scores, const float* bias, int64_t n, float* keys) {
  const f32x16 low = f32x16::set1(-__builtin_inff());
  uint32_t numbers = 0xffffu;
  int64_t i = 0;
  for (; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    f32x16 key = f32x16::load(scores + i);
    if (bias) key = key + f32x16::load_n(bias + i, lanes);
    numbers &= equal_mask(key, key);
    select(first_lanes(lanes), key, low).store(keys + i);
  }
  for (; i % 64; i += 16) low.store(keys + i);
  return numbers == 0xffffu;
}

// The sum of the two largest of keys[0, n).
MN_INLINE float best_two(const float* keys, int64_t n) {
  const f32x16 low = f32x16::set1(-__builtin_inff());
  f32x16 first = low, second = low;
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    const f32x16 key = select(first_lanes(lanes), f32x16::load_n(keys + i, lanes), low);
    second = max(second, min(first, key));
    first = max(first, key);
  }
  const float best = reduce_max(first);
  const uint32_t at = equal_mask(first, f32x16::set1(best));
  return best + reduce_max(select(at & (0u - at), second, first));
}

// Sets the keys of all but the best groups to -inf.
MN_INLINE void close_groups(int64_t experts, int groups, int open_groups, float* keys) {
  const int64_t size = experts / groups;
  alignas(64) float sums[kMaxKeys];
  int32_t order[kMaxKeys];
  bool open[kMaxKeys] = {};
  for (int g = 0; g < groups; ++g) sums[g] = best_two(keys + g * size, size);
  for (int g = groups; g % 64; ++g) sums[g] = -__builtin_inff();
  select_top(sums, groups, open_groups, order);
  for (int g = 0; g < open_groups; ++g) open[order[g]] = true;
  for (int g = 0; g < groups; ++g)
    if (!open[g])
      for (int64_t e = g * size; e < (g + 1) * size; ++e) keys[e] = -__builtin_inff();
}

// Gathers the chosen scores, 0 up to the next multiple of 16, and returns their sum.
MN_INLINE float chosen_scores(const float* scores, const int32_t* ids, int64_t k, float* chosen) {
  f32x16 sum = f32x16::zero();
  for (int64_t i = 0; i < k; i += 16) {
    const int lanes = lanes_left(k, i);
    f32x16::zero().store(chosen + i);
    for (int j = 0; j < lanes; ++j) chosen[i + j] = scores[ids[i + j]];
    sum = sum + f32x16::load(chosen + i);
  }
  return reduce_add(sum);
}

MN_INLINE void weigh(const RouteRule& rule, const float* scores, const int32_t* ids, int64_t k,
                     float* weights) {
  alignas(64) float chosen[kRouteMaxExperts];
  const float sum = chosen_scores(scores, ids, k, chosen);
  const f32x16 divisor = f32x16::set1(rule.normalize ? sum + 1e-20f : 1.f);
  const f32x16 scaling = f32x16::set1(rule.scaling);
  for (int64_t i = 0; i < k; i += 16)
    (f32x16::load(chosen + i) / divisor * scaling).store_n(weights + i, lanes_left(k, i));
}

MN_INLINE float sum_row(const float* x, int64_t n) {
  f32x16 sum = f32x16::zero();
  for (int64_t i = 0; i < n; i += 16) sum = sum + f32x16::load(x + i);
  return reduce_add(sum);
}

MN_INLINE void add_stats(const float* scores, int64_t experts, const int32_t* ids, int64_t k,
                         float* shares, int32_t* counts) {
  const f32x16 inverse = f32x16::set1(1.f / (sum_row(scores, experts) + 1e-20f));
  for (int64_t i = 0; i < experts; i += 16) {
    const int lanes = lanes_left(experts, i);
    fma(f32x16::load(scores + i), inverse, f32x16::load_n(shares + i, lanes))
        .store_n(shares + i, lanes);
  }
  for (int64_t i = 0; i < k; ++i) ++counts[ids[i]];
}

bool route_token(const RouteProblem& p, int64_t t, RouteRow& row) {
  const int64_t k = p.top_k;
  int32_t* ids = p.ids + t * k;
  const float* logits = p.logits + t * p.logits_stride;
  // A token takes about as long as its logits from memory, if they are asked for in time.
  if (t + kRoutePrefetch < p.tokens)
    for (int64_t i = 0; i < p.experts; i += 16)
      prefetch(logits + kRoutePrefetch * p.logits_stride + i);
  score_row(logits, p.experts, p.rule.scoring, row.scores);
  if (!key_row(row.scores, p.bias, p.experts, row.keys)) return false;
  if (!p.replay) {
    if (p.open_groups < p.groups)
      close_groups(p.experts, static_cast<int>(p.groups), static_cast<int>(p.open_groups),
                   row.keys);
    select_top(row.keys, static_cast<int>(p.experts), static_cast<int>(k), ids);
  }
  weigh(p.rule, row.scores, ids, k, p.weights + t * k);
  return true;
}

bool route(const RouteProblem& p) {
  bool numbers = true;
  parallel_for(route_jobs(p.tokens), p.tokens * p.experts, kRouteGrain, [&](int64_t job) {
    RouteRow row;
    const int64_t begin = job * kRouteTokensPerJob;
    const int64_t end =
        begin + kRouteTokensPerJob < p.tokens ? begin + kRouteTokensPerJob : p.tokens;
    for (int64_t t = begin; t < end; ++t) {
      if (!route_token(p, t, row)) return __atomic_store_n(&numbers, false, __ATOMIC_RELAXED);
      if (p.job_shares)
        add_stats(row.scores, p.experts, p.ids + t * p.top_k, p.top_k,
                  p.job_shares + job * p.experts, p.job_counts + job * p.experts);
    }
  });
  return numbers;
}

}  // namespace
}  // namespace mn::MN_ISA
