// Host launchers of the CUDA kernels of this family, and what they need beside the problem.
#pragma once

#include <cuda_runtime_api.h>

#include "routing/problem.h"
#include "runtime/tensor.h"

namespace mn {

struct RouteSm80Problem {
  RouteProblem route;  // its ids and weights are outputs, its job_* are not used
  const void* replay_ids;
  DType replay_dtype;
  int64_t replay_stride;  // elements
  // All three or none: slots that chose each expert [E]; of each token the largest logit, 0 for
  // sigmoid, and one over the sum of its scores [T, 2]; the mean share of each expert [E].
  unsigned long long* counts;
  float2* scales;
  float* mean_score;
};

// A warp per token. A score that is not a number makes the token's weights NaN, and so does, where
// they are normalized, an id to replay that does not exist.
void route_sm80(const RouteSm80Problem& problem, cudaStream_t stream);

}  // namespace mn
