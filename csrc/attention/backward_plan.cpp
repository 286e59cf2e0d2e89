#include "attention/backward_plan.h"

#include <algorithm>

namespace mn {
namespace {

// Fewer tokens are not worth the partial sums; a window's halo is added up twice.
constexpr int64_t kJobTokens = 256;

// Rows of a tile: under a window few, so that they see nearly the same keys; else many, so that
// each block of keys is read and its sums are updated less often.
constexpr int64_t kWindowRows = kPanelRows, kGlobalRows = 2 * kPanelRows;

KeyRange keys_of(const BackwardProblem& p, const BackwardSequence& s, int64_t token) {
  return visible_keys(s.first_position + token, s.keys, p.causal, p.window);
}

// Edges of runs of tokens with equally many visible keys.
std::vector<int64_t> cut(const BackwardProblem& p, const BackwardSequence& s) {
  int64_t jobs = std::min(s.tokens / kJobTokens, kMostPartials);
  if (p.window < s.keys) jobs = std::max(jobs, s.tokens / std::max(kJobTokens, 2 * p.window));
  jobs = std::max<int64_t>(jobs, 1);
  int64_t pairs = 0, seen = 0;
  for (int64_t i = 0; i < s.tokens; ++i) pairs += keys_of(p, s, i).hi - keys_of(p, s, i).lo;
  std::vector<int64_t> edges{0};
  for (int64_t i = 0; i < s.tokens; ++i) {
    seen += keys_of(p, s, i).hi - keys_of(p, s, i).lo;
    if (seen * jobs >= pairs * static_cast<int64_t>(edges.size()) && i + 1 < s.tokens &&
        static_cast<int64_t>(edges.size()) < jobs)
      edges.push_back(i + 1);
  }
  edges.push_back(s.tokens);
  return edges;
}

}  // namespace

BackwardPlan plan_backward(const BackwardProblem& p, std::vector<BackwardSequence>& sequences) {
  BackwardPlan plan;
  bool windowed = true;
  int64_t most_rows = 0;
  for (size_t n = 0; n < sequences.size(); ++n) {
    BackwardSequence& s = sequences[n];
    windowed = windowed && p.window < s.keys;
    most_rows = std::max(most_rows, s.tokens * (p.q_heads / p.kv_heads));
    const std::vector<int64_t> edges = cut(p, s);
    s.first_job = static_cast<int64_t>(plan.jobs.size());
    s.jobs_per_head = static_cast<int64_t>(edges.size()) - 1;
    for (int64_t head = 0; head < p.kv_heads; ++head)
      for (size_t e = 0; e + 1 < edges.size(); ++e) {
        BackwardJob job{};
        job.sequence = static_cast<int32_t>(n);
        job.kv_head = static_cast<int32_t>(head);
        job.first_token = edges[e];
        job.tokens = edges[e + 1] - edges[e];
        for (int64_t i = edges[e]; i < edges[e + 1]; ++i) {
          const KeyRange range = keys_of(p, s, i);
          if (range.hi == range.lo) continue;
          if (job.key_hi == 0) job.key_lo = range.lo & ~int64_t{1};  // pairs are anchored
          job.key_hi = std::max(job.key_hi, range.hi);
        }
        job.partial = plan.partial_floats;
        plan.partial_floats += (job.key_hi - job.key_lo) * (p.padded_qk + p.padded_v);
        plan.jobs.push_back(job);
      }
  }
  plan.tile_rows = windowed ? kWindowRows : kGlobalRows;
  while (plan.tile_rows > kPanelRows && plan.tile_rows - kPanelRows >= most_rows)
    plan.tile_rows -= kPanelRows;
  return plan;
}

}  // namespace mn
