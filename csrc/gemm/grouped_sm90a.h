// The grouped product of bf16 rows and weights on sm_90a, by CUTLASS: TMA and warp-specialised
// wgmma. Only in builds that found its headers (MN_HAVE_SM90A).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace mn {

struct GroupedSm90aProblem {
  int32_t rows, outputs, inputs, groups;
  const void* x;  // [rows, inputs]
  int64_t x_stride;
  const void* w;                   // [groups, outputs, inputs]
  int64_t w_stride, group_stride;  // elements
  const void* sizes;               // [groups] int64 or int32, on the device
  bool wide_sizes;
  void* y;  // [rows, outputs]; rows beyond the sizes become zero
  int multiprocessors;
  void* workspace;  // grouped_sm90a_workspace() bytes, aligned to kWorkspaceAlignment
};

inline constexpr int64_t kWorkspaceAlignment = 256;

// Whether TMA can read and write these tensors, and the tiles are worth while.
bool grouped_sm90a_serves(const GroupedSm90aProblem& problem);

int64_t grouped_sm90a_workspace(const GroupedSm90aProblem& problem);

void grouped_sm90a(const GroupedSm90aProblem& problem, cudaStream_t stream);

}  // namespace mn
