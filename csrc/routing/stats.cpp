#include <algorithm>
#include <vector>

#include "routing/problem.h"

namespace mn {

void reduce_route_stats(const RouteProblem& p, int64_t* counts, float* mean_score) {
  const int64_t experts = p.experts, jobs = route_jobs(p.tokens);
  std::vector<double> sums(static_cast<size_t>(experts), 0.0);
  std::fill_n(counts, experts, 0);
  for (int64_t job = 0; job < jobs; ++job)
    for (int64_t e = 0; e < experts; ++e) {
      sums[static_cast<size_t>(e)] += static_cast<double>(p.job_shares[job * experts + e]);
      counts[e] += p.job_counts[job * experts + e];
    }
  const double tokens = static_cast<double>(std::max<int64_t>(p.tokens, 1));
  for (int64_t e = 0; e < experts; ++e)
    mean_score[e] = static_cast<float>(sums[static_cast<size_t>(e)] / tokens);
}

}  // namespace mn
