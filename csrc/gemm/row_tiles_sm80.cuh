// Prefix sums of one block, and the row tiles that follow from sizes of groups.
#pragma once

#include "gemm/row_tiles_cuda.h"

namespace mn {

// The sum of the values of the threads before; `total` is that of all. Of kRowTileThreads threads,
// each call with shared memory of its own.
template <class T>
__device__ inline T sum_before(T value, T& total, T (&of_warp)[kRowTileThreads / 32]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const T other = __shfl_up_sync(~0u, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == 31) of_warp[warp] = sum;
  __syncthreads();
  T before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < kRowTileThreads / 32; ++w) {
    if (w == warp) before = total;
    total += of_warp[w];
  }
  return before + sum - value;
}

// Of the sizes that a caller gave: at least 0, at most `rows`, so that no sum of them overflows.
__device__ inline int64_t size_of_group(const void* sizes, bool wide, int group, int64_t rows) {
  const int64_t size =
      wide ? static_cast<const int64_t*>(sizes)[group] : static_cast<const int32_t*>(sizes)[group];
  return min(max(size, int64_t{0}), rows);
}

// Every thread has the rows [first, end) of the group of its number; ascending, without gaps.
__device__ inline void write_row_tiles(int first, int end, int tile_rows, int row_tiles,
                                       RowTile* tiles) {
  __shared__ int first_tile[kRowTileThreads], first_row[kRowTileThreads], end_row[kRowTileThreads];
  __shared__ int tiles_of_warp[kRowTileThreads / 32];
  const int thread = static_cast<int>(threadIdx.x);
  int total;
  first_tile[thread] = sum_before((end - first + tile_rows - 1) / tile_rows, total, tiles_of_warp);
  first_row[thread] = first;
  end_row[thread] = end;
  __syncthreads();
#pragma unroll 1  // rarely more than one round
  for (int i = thread; i < row_tiles; i += kRowTileThreads) {
    RowTile tile{};
    if (i < total) {
      int group = 0;  // the last whose first tile is not above i
#pragma unroll
      for (int step = kRowTileThreads / 2; step > 0; step /= 2)
        if (first_tile[group + step] <= i) group += step;
      tile.group = group;
      tile.first = first_row[group] + (i - first_tile[group]) * tile_rows;
      tile.end = min(tile.first + tile_rows, end_row[group]);
    }
    tiles[i] = tile;
  }
}

}  // namespace mn
