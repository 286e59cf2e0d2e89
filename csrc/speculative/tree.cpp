#include "speculative/problem.h"

namespace mn {

TreeCheck check_tree(int64_t nodes, const int64_t* tokens, const int64_t* parents) {
  if (parents[0] != -1) return {TreeFault::root, 0};
  for (int64_t node = 1; node < nodes; ++node) {
    if (parents[node] < 0 || parents[node] >= node) return {TreeFault::order, node};
    for (int64_t other = 1; other < node; ++other)
      if (parents[other] == parents[node] && tokens[other] == tokens[node])
        return {TreeFault::twins, node};
  }
  return {};
}

void build_tree(const DraftTreeProblem& p) {
  p.depths[0] = 0;
  p.ancestors[0] = 1;
  p.positions[0] = p.root_position;
  for (int64_t node = 1; node < p.nodes; ++node) {
    const int64_t parent = p.parents[node];
    p.depths[node] = p.depths[parent] + 1;
    p.ancestors[node] =
        static_cast<int64_t>(static_cast<uint64_t>(p.ancestors[parent]) | uint64_t{1} << node);
    p.positions[node] = p.root_position + p.depths[node];
  }
}

}  // namespace mn
