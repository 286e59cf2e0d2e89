// The top-k router: what a call hands to the kernels. T tokens, E experts, K slots per token.
#pragma once

#include <cstdint>

#include "runtime/isa.h"

namespace mn {

inline constexpr int64_t kRouteMaxExperts = 1024;
// Statistics are summed per job of this many tokens, then over jobs in order.
inline constexpr int64_t kRouteTokensPerJob = 64;

inline int64_t route_jobs(int64_t tokens) {
  return (tokens + kRouteTokensPerJob - 1) / kRouteTokensPerJob;
}

enum class Scoring { sigmoid, softmax };

// How scores become weights; shared by forward and backward.
//   w[t, k] = scaling * s[t, ids[t, k]] / (sum over k of s[t, ids[t, k]] + 1e-20 if normalize)
struct RouteRule {
  Scoring scoring;
  bool normalize;
  float scaling;
};

struct RouteProblem {
  int64_t tokens, experts, top_k;
  int64_t groups, open_groups;  // 1 and 1: no groups
  RouteRule rule;
  const float* logits;  // [T, E], rows logits_stride apart
  int64_t logits_stride;
  const float* bias;  // [E], or null
  bool replay;        // ids are given, not chosen
  int32_t* ids;       // [T, K]
  float* weights;     // [T, K]
  // [route_jobs(T), E] each, or both null: per job the sum of s / sum(s) and the chosen slots.
  float* job_shares;
  int32_t* job_counts;
};

struct RouteBackwardProblem {
  int64_t tokens, experts, top_k;
  RouteRule rule;
  const float* logits;
  int64_t logits_stride;
  const int32_t* ids;
  const float* grad_weights;     // [T, K], or null
  const float* grad_mean_score;  // [E], or null
  float* grad_logits;            // [T, E]
};

struct RoutingKernels {
  bool (*route)(const RouteProblem&);  // false if a score is not a number; outputs are then void
  void (*route_backward)(const RouteBackwardProblem&);
};

MN_DECLARE_KERNELS(RoutingKernels, routing_kernels)

// counts[e] = slots that chose e; mean_score[e] = mean over tokens of s / (sum of s + 1e-20).
void reduce_route_stats(const RouteProblem& problem, int64_t* counts, float* mean_score);

}  // namespace mn
