#include "speculative/draft.h"

#include <algorithm>

namespace mn {

int64_t Draft::deepest() const {
  std::vector<int64_t> depth;
  int64_t most = 0;
  for (const int64_t parent : parents) {
    depth.push_back(parent < 0 ? 1 : depth[static_cast<size_t>(parent)] + 1);
    most = std::max(most, depth.back());
  }
  return most;
}

std::vector<int32_t> Growth::path(int32_t node) const {
  std::vector<int32_t> up;
  for (; node >= 0; node = nodes_[static_cast<size_t>(node)].parent) up.push_back(node);
  std::reverse(up.begin(), up.end());
  return up;
}

// The likelier first; equals by their depth, if asked, and by the tokens of their paths.
bool Growth::before(int32_t a, int32_t b, bool by_depth) const {
  const Node &x = nodes_[static_cast<size_t>(a)], &y = nodes_[static_cast<size_t>(b)];
  if (x.score != y.score) return x.score > y.score;
  if (by_depth && x.depth != y.depth) return x.depth < y.depth;
  const auto token = [this](int32_t node) { return nodes_[static_cast<size_t>(node)].token; };
  const std::vector<int32_t> left = path(a), right = path(b);
  return std::lexicographical_compare(left.begin(), left.end(), right.begin(), right.end(),
                                      [&](int32_t l, int32_t r) { return token(l) < token(r); });
}

void Growth::grow(const std::vector<int64_t>& tokens, const std::vector<float>& logprobs,
                  const DraftShape& shape) {
  std::vector<int32_t> level;
  const size_t width = front_.empty() ? 0 : tokens.size() / front_.size();
  for (size_t i = 0; i < front_.size(); ++i) {
    const int32_t parent = front_[i];
    const double above = parent < 0 ? 0.0 : nodes_[static_cast<size_t>(parent)].score;
    const int32_t depth = parent < 0 ? 1 : nodes_[static_cast<size_t>(parent)].depth + 1;
    for (size_t j = i * width; j < (i + 1) * width; ++j) {
      level.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({tokens[j], parent, depth, above + static_cast<double>(logprobs[j])});
    }
  }
  std::sort(level.begin(), level.end(),
            [this](int32_t a, int32_t b) { return before(a, b, false); });
  front_.clear();
  for (const int32_t node : level) {
    if (static_cast<int64_t>(front_.size()) == shape.beam) break;
    if (nodes_[static_cast<size_t>(node)].score >= shape.least_step) front_.push_back(node);
  }
  std::sort(front_.begin(), front_.end());
}

Draft Growth::best(const DraftShape& shape) const {
  std::vector<int32_t> ranked;
  for (size_t i = 0; i < nodes_.size(); ++i)
    if (nodes_[i].score >= shape.least_node) ranked.push_back(static_cast<int32_t>(i));
  std::sort(ranked.begin(), ranked.end(),
            [this](int32_t a, int32_t b) { return before(a, b, true); });
  const int64_t most = std::min<int64_t>(static_cast<int64_t>(ranked.size()), shape.budget);
  ranked.resize(static_cast<size_t>(most));
  // A path is never likelier than its beginning, so parents come first.
  Draft draft;
  std::vector<int64_t> place(nodes_.size(), -1);
  for (const int32_t node : ranked) {
    const Node& n = nodes_[static_cast<size_t>(node)];
    place[static_cast<size_t>(node)] = draft.size();
    draft.tokens.push_back(n.token);
    draft.parents.push_back(n.parent < 0 ? -1 : place[static_cast<size_t>(n.parent)]);
  }
  return draft;
}

void merge(Draft& first, const Draft& second, int64_t most) {
  std::vector<int64_t> place;
  for (size_t i = 0; i < second.tokens.size(); ++i) {
    const int64_t above = second.parents[i];
    const int64_t parent = above < 0 ? -1 : place[static_cast<size_t>(above)];
    int64_t found = -1;
    for (size_t j = 0; j < first.tokens.size() && found < 0; ++j)
      if (first.parents[j] == parent && first.tokens[j] == second.tokens[i])
        found = static_cast<int64_t>(j);
    if (found < 0) {
      if (first.size() == most) return;
      found = first.size();
      first.tokens.push_back(second.tokens[i]);
      first.parents.push_back(parent);
    }
    place.push_back(found);
  }
}

}  // namespace mn
