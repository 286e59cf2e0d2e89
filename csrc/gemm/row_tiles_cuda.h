// The row tiles of a grouped product, made on the device from sizes that never leave it.
#pragma once

#include <cuda_runtime_api.h>

#include "gemm/plan_sm80.h"
#include "runtime/check.h"

namespace mn {

inline constexpr int64_t kRowTileWords = sizeof(RowTile) / 4;
// One block describes all groups and the rows of none, one thread for each.
inline constexpr int kRowTileThreads = 1024;

inline void check_group_count(const Check& check, int64_t groups) {
  if (groups >= kRowTileThreads)
    throw UnsupportedError(check.op(),
                           {"cuda: at most " + std::to_string(kRowTileThreads - 1) +
                            " groups, got " + std::to_string(groups)},
                           "Split the call.");
}

struct RowTilesProblem {
  const void* sizes;  // [groups] int64 or int32
  bool wide_sizes;
  int32_t groups, rows, tile_rows, row_tiles;
  RowTile* tiles;  // [row_tiles]
};

// Group g has the next sizes[g] rows, as far as there are rows; group `groups` has what is left.
void row_tiles_of_sizes_sm80(const RowTilesProblem& problem, cudaStream_t stream);

}  // namespace mn
