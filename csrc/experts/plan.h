// Sorts (token, slot) pairs by expert: histogram, prefix sums, stable permutation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gemm/plan.h"

namespace mn {

struct ExpertPlan {
  int64_t tokens = 0, slots = 0;
  std::vector<int64_t> sizes;     // [E] rows of each expert
  std::vector<int32_t> token;     // [tokens * slots] token of each sorted row
  std::vector<int32_t> position;  // [tokens, slots] sorted row of each pair
  RowPlan rows;

  std::string describe() const;
};

// Every id must be in [0, experts). Within an expert rows keep the order of (token, slot).
ExpertPlan plan_experts(const int32_t* ids, int64_t tokens, int64_t slots, int64_t experts,
                        int tile_rows);

}  // namespace mn
