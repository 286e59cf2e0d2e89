// Draft trees of at most 64 nodes: built by a thread per node, walked by one warp.
#include "speculative/kernels_cuda.h"

namespace mn {
namespace {

constexpr int kNoFault = 1 << 30;

__device__ TreeFault fault_of(const DraftTreeProblem& p, int node) {
  const int64_t parent = p.parents[node];
  if (node == 0) return parent == -1 ? TreeFault::none : TreeFault::root;
  if (parent < 0 || parent >= node) return TreeFault::order;
#pragma unroll 1
  for (int other = 1; other < node; ++other)
    if (p.parents[other] == parent && p.tokens[other] == p.tokens[node]) return TreeFault::twins;
  return TreeFault::none;
}

__global__ void __launch_bounds__(kMostNodes)
    build_kernel(const DraftTreeProblem p, int64_t* fault) {
  __shared__ int first;
  const int node = static_cast<int>(threadIdx.x);
  if (node == 0) first = kNoFault;
  __syncthreads();
  if (node < p.nodes) {
    const TreeFault found = fault_of(p, node);
    if (found != TreeFault::none) atomicMin(&first, node * 4 + static_cast<int>(found));
  }
  __syncthreads();
  if (node == 0) *fault = first == kNoFault ? -1 : first;
  if (first != kNoFault || node >= p.nodes) return;
  // Parents come first, so that the way up ends.
  uint64_t mask = 1;
  int64_t depth = 0;
  for (int64_t at = node; at > 0; at = p.parents[at]) {
    mask |= uint64_t{1} << at;
    ++depth;
  }
  p.depths[node] = depth;
  p.ancestors[node] = static_cast<int64_t>(mask);
  p.positions[node] = p.root_position + depth;
}

__global__ void __launch_bounds__(32) walk_kernel(const WalkProblem p) {
  const int lane = static_cast<int>(threadIdx.x), nodes = static_cast<int>(p.nodes);
  int node = 0, count = 0;
  bool defined = true;
  while (node >= 0) {
    const int64_t token = p.drawn[node];
    defined = token >= 0;
    if (!defined) break;
    if (lane == 0) p.visited[count] = node;
    ++count;
    // Siblings differ in their tokens: at most one lane has a child of this token.
    int child = -1;
#pragma unroll
    for (int i = 0; i < kMostNodes / 32; ++i) {
      const int other = lane + 32 * i;
      if (other < nodes && p.parents[other] == node && p.tokens[other] == token) child = other;
    }
    const unsigned found = __ballot_sync(~0u, child >= 0);
    node = found ? __shfl_sync(~0u, child, __ffs(static_cast<int>(found)) - 1) : -1;
  }
  if (lane == 0) *p.count = defined ? count : -1;
}

}  // namespace

void build_tree_sm80(const DraftTreeProblem& p, int64_t* fault, cudaStream_t stream) {
  build_kernel<<<1, kMostNodes, 0, stream>>>(p, fault);
}

void walk_tree_sm80(const WalkProblem& p, cudaStream_t stream) {
  walk_kernel<<<1, 32, 0, stream>>>(p);
}

}  // namespace mn
