// How a call is cut into jobs: tiles of rows and, when there are few of those, runs of keys.
#pragma once

#include <string>
#include <vector>

#include "attention/problem.h"

namespace mn {

struct AttentionPlan {
  std::vector<AttentionJob> jobs;
  std::vector<AttentionJob> merges;  // of the tiles whose runs are jobs of their own
  int64_t tile_rows = 0;             // most rows of a job
  int64_t partial_rows = 0;
  bool one_tile = true;  // every sequence is one tile per kv head, and none is split

  std::string describe() const;
};

// Reads the heads, causal and window of the problem, and the tokens, positions and keys of its
// sequences. The cuts change neither results nor their bits.
AttentionPlan plan_attention(const AttentionProblem& problem, int64_t sequence_count, int threads);

}  // namespace mn
