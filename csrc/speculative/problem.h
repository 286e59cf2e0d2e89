// Draft trees: node 0 is the last known token, every other node a draft below its parent.
#pragma once

#include <cstdint>

#include "sampling/problem.h"

namespace mn {

inline constexpr int64_t kMostNodes = 64;  // a node's ancestors are one word

struct DraftTreeProblem {
  int64_t nodes;
  const int64_t* tokens;
  const int64_t* parents;
  int64_t root_position;
  int64_t* depths;
  int64_t* ancestors;
  int64_t* positions;
};

// What is wrong with a tree, if anything, and at which node.
enum class TreeFault { none, root, order, twins };
struct TreeCheck {
  TreeFault fault = TreeFault::none;
  int64_t node = 0;
};

TreeCheck check_tree(int64_t nodes, const int64_t* tokens, const int64_t* parents);
// Of a tree that check_tree has nothing against.
void build_tree(const DraftTreeProblem& problem);

// One tree, its logits a row per node. `draw` has one row; its logits, position and history are set
// anew at each node that the walk visits. history [history_len + nodes] begins with what is known.
struct VerifyProblem {
  int64_t nodes;
  const int64_t* tokens;
  const int64_t* parents;
  const void* logits;
  int64_t row_bytes;
  int64_t position;  // of the token after the root
  SampleProblem draw;
  bool (*sample)(const SampleProblem&);
  int32_t* history;
  int64_t history_len;
  int64_t* path;    // [nodes]: the accepted nodes
  int64_t* drawn;   // [nodes]
  float* logprobs;  // [nodes]
};

// The tokens drawn, one more than the nodes accepted; 0 where a visited row of logits is no
// distribution.
int64_t verify_tree(const VerifyProblem& problem);

}  // namespace mn
