// Target first: the next token is drawn as plain sampling draws it, and the tree only says whether
// it has been computed already. The output is that of plain sampling, whatever the drafts.
#include "speculative/problem.h"

namespace mn {
namespace {

int64_t child_of(const VerifyProblem& p, int64_t parent, int64_t token) {
  for (int64_t node = parent + 1; node < p.nodes; ++node)
    if (p.parents[node] == parent && p.tokens[node] == token) return node;
  return -1;
}

}  // namespace

int64_t verify_tree(const VerifyProblem& p) {
  SampleProblem draw = p.draw;
  int64_t count = 0;
  for (int64_t node = 0; node >= 0;) {
    const int64_t position = p.position + count;
    draw.logits = static_cast<const char*>(p.logits) + node * p.row_bytes;
    draw.position = &position;
    draw.history = p.history;
    draw.history_len = p.history_len + count;
    draw.ids = p.drawn + count;
    draw.logprobs = p.logprobs + count;
    if (!p.sample(draw)) return 0;
    const int64_t token = p.drawn[count];
    if (p.history) p.history[p.history_len + count] = static_cast<int32_t>(token);
    node = child_of(p, node, token);
    if (node >= 0) p.path[count] = node;
    ++count;
  }
  return count;
}

}  // namespace mn
