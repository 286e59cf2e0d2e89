// Drafts as trees, and which of many scored nodes to verify.
#pragma once

#include <cstdint>
#include <vector>

namespace mn {

// Drafted tokens below a root that is not among them; parents[i] < i, -1 for the root.
struct Draft {
  std::vector<int64_t> tokens, parents;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t deepest() const;
};

// `width` children are scored per node, the `beam` likeliest paths of a depth go deeper if they are
// at least as likely as `least_step`, and the `budget` likeliest nodes are drafted, none of them
// less likely than `least_node`. The bounds are log-probabilities. Width 0: no drafts of blocks.
struct DraftShape {
  int64_t width, beam, budget;
  double least_step, least_node;
};

// The tree that a draft is chosen from, grown depth by depth.
class Growth {
 public:
  struct Node {
    int64_t token;
    int32_t parent, depth;  // parent -1: the root
    double score;           // log-probability of the path
  };

  const std::vector<Node>& nodes() const { return nodes_; }
  // The paths that go deeper, by their last nodes, ascending; at first the root, -1, alone.
  const std::vector<int32_t>& front() const { return front_; }
  void stop() { front_.clear(); }
  // The nodes of the path to a node, root's child first.
  std::vector<int32_t> path(int32_t node) const;

  // The children of every path of the front, `width` tokens and log-probabilities of each, in the
  // front's order; the likeliest become the next front.
  void grow(const std::vector<int64_t>& tokens, const std::vector<float>& logprobs,
            const DraftShape& shape);
  // The likeliest nodes as a tree.
  Draft best(const DraftShape& shape) const;

 private:
  bool before(int32_t a, int32_t b, bool by_depth) const;

  std::vector<Node> nodes_;
  std::vector<int32_t> front_ = {-1};
};

// Adds to `first` what `second` has beyond it, up to `most` nodes.
void merge(Draft& first, const Draft& second, int64_t most);

}  // namespace mn
