#include "attention/tree.h"

#include <algorithm>
#include <bit>

namespace mn {

int64_t DraftTree::deepest() const {
  size_t most = 0;
  for (const std::vector<int64_t>& path : paths) most = std::max(most, path.size());
  return static_cast<int64_t>(most);
}

namespace {

std::string node_mask(int64_t node, uint64_t mask) {
  return "mask " + std::to_string(static_cast<int64_t>(mask)) + " of node " + std::to_string(node);
}

// Root to node. A mask is right when its nodes' masks grow by one node at a time; then nothing can
// be its own ancestor.
std::vector<int64_t> path_to(const Check& check, const uint64_t* masks, int64_t nodes,
                             int64_t node) {
  const uint64_t mask = masks[node];
  if (!(mask >> node & 1))
    check.fail("ancestors", "every node's own bit set", node_mask(node, mask));
  if (nodes < 64 && mask >> nodes)
    check.fail("ancestors", "bits below the row's " + std::to_string(nodes) + " nodes",
               node_mask(node, mask));
  std::vector<int64_t> path(static_cast<size_t>(std::popcount(mask)), -1);
  for (uint64_t rest = mask; rest; rest &= rest - 1) {
    const int64_t ancestor = std::countr_zero(rest);
    const size_t depth = static_cast<size_t>(std::popcount(masks[ancestor])) - 1;
    if (depth >= path.size() || path[depth] >= 0)
      check.fail("ancestors", "the ancestors of a node to be one path from a root",
                 node_mask(node, mask));
    path[depth] = ancestor;
  }
  uint64_t so_far = 0;
  for (const int64_t ancestor : path) {
    so_far |= uint64_t{1} << ancestor;
    if (masks[ancestor] != so_far)
      check.fail("ancestors", "a node's mask to hold its ancestors' masks, without cycles",
                 node_mask(node, mask));
  }
  return path;
}

}  // namespace

DraftTree draft_tree(const Check& check, const int64_t* signed_masks, int64_t nodes,
                     int64_t length) {
  DraftTree tree;
  if (nodes > kMaxTreeNodes)
    check.fail("ancestors", "at most 64 nodes in a row", std::to_string(nodes) + " nodes");
  std::vector<uint64_t> masks(signed_masks, signed_masks + nodes);
  uint64_t inner = 0;
  std::vector<std::vector<int64_t>> paths;
  for (int64_t i = 0; i < nodes; ++i) {
    paths.push_back(path_to(check, masks.data(), nodes, i));
    tree.depth.push_back(static_cast<int64_t>(paths.back().size()) - 1);
    inner |= masks[static_cast<size_t>(i)] & ~(uint64_t{1} << i);
  }
  uint64_t placed = 0;
  for (int64_t leaf = 0; leaf < nodes; ++leaf) {
    if (inner >> leaf & 1) continue;
    for (const int64_t node : paths[static_cast<size_t>(leaf)]) {
      if (placed >> node & 1) continue;
      placed |= uint64_t{1} << node;
      tree.order.push_back(static_cast<int32_t>(node));
      tree.position.push_back(length + tree.depth[static_cast<size_t>(node)]);
      tree.tail_of.push_back(static_cast<int32_t>(tree.paths.size()));
    }
    tree.paths.push_back(std::move(paths[static_cast<size_t>(leaf)]));
  }
  return tree;
}

}  // namespace mn
