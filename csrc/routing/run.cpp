#include "routing/run.h"

#include <cmath>

namespace mn {
namespace {

[[noreturn]] void fail_on_nan(const Check& check, const RouteProblem& p) {
  for (int64_t t = 0; t < p.tokens; ++t)
    for (int64_t e = 0; e < p.experts; ++e)
      if (std::isnan(p.logits[t * p.logits_stride + e]))
        check.fail("logits", "scores that are numbers",
                   "NaN at token " + std::to_string(t) + ", expert " + std::to_string(e));
  check.fail("logits", "scores that are numbers", "+inf, or a row of -inf, under softmax");
}

}  // namespace

void run_route(const Check& check, const RouteProblem& problem) {
  if (!routing_kernels_for_isa().route(problem)) fail_on_nan(check, problem);
}

}  // namespace mn
