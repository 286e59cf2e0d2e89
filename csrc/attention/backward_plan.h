// How a backward pass is cut into jobs: runs of tokens, whose partial sums are added up afterwards.
#pragma once

#include <vector>

#include "attention/backward_problem.h"

namespace mn {

struct BackwardPlan {
  std::vector<BackwardJob> jobs;
  int64_t tile_rows = 0;
  int64_t partial_floats = 0;
};

// Reads the heads, dims, causal and window of the problem, and the tokens, positions and keys of
// its sequences, whose jobs it writes. The cuts follow from each sequence alone: not from its
// neighbours, nor from the number of threads.
BackwardPlan plan_backward(const BackwardProblem& problem,
                           std::vector<BackwardSequence>& sequences);

}  // namespace mn
