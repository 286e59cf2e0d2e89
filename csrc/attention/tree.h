// A draft tree given by ancestor masks: its paths, and which path's keys each node reads.
#pragma once

#include <vector>

#include "runtime/check.h"

namespace mn {

inline constexpr int64_t kMaxTreeNodes = 64;

struct DraftTree {
  std::vector<int64_t> depth;               // by node of the call, root 0
  std::vector<std::vector<int64_t>> paths;  // root to leaf, one per leaf: the tails
  // In the order of computation, nodes of one tail side by side:
  std::vector<int32_t> order;  // node of the call
  std::vector<int64_t> position;
  std::vector<int32_t> tail_of;

  int64_t deepest() const;  // nodes of the longest path
};

// `masks[i]`: bit j says that node j is an ancestor of node i or i itself. `length`: committed keys
// of the row. Fails unless the masks describe a forest of at most 64 nodes.
DraftTree draft_tree(const Check& check, const int64_t* masks, int64_t nodes, int64_t length);

}  // namespace mn
