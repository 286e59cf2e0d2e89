// How RMSNorm is laid over a GPU: plain numbers, so that a plan can be printed and tested alone.
#pragma once

#include "norm_rope/problem.h"

namespace mn {

inline constexpr int kRmsNormThreads = 256;  // per block

struct RmsNormPlan {
  bool wide;            // loads of 16 bytes; false: element by element
  int threads_per_row;  // a power of two, 32 .. kRmsNormThreads
  int rows_per_block;
  unsigned blocks;
};

// `x_size` and `weight_size` are bytes per element. `rows` must be positive.
RmsNormPlan plan_rms_norm(const RmsNormProblem& problem, int x_size, int weight_size);

}  // namespace mn
