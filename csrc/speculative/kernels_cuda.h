// Host launchers of the CUDA kernels of this family.
#pragma once

#include <cuda_runtime_api.h>

#include "speculative/problem.h"

namespace mn {

// `fault` [1] becomes -1, or node * 4 + TreeFault for the first node that is no part of a tree;
// then nothing else is written.
void build_tree_sm80(const DraftTreeProblem& problem, int64_t* fault, cudaStream_t stream);

// Down the tree by the tokens drawn at its nodes.
struct WalkProblem {
  int64_t nodes;
  const int64_t* tokens;
  const int64_t* parents;
  const int64_t* drawn;  // [nodes], -1: the node's logits are no distribution
  int64_t* visited;      // [nodes]: the root and the accepted nodes
  int64_t* count;        // [1]: how many those are; -1 if a visited node has drawn nothing
};
void walk_tree_sm80(const WalkProblem& problem, cudaStream_t stream);

}  // namespace mn
