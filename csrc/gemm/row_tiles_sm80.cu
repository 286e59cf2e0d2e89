#include "gemm/row_tiles_sm80.cuh"

namespace mn {
namespace {

__global__ void __launch_bounds__(kRowTileThreads) row_tiles_of_sizes(const RowTilesProblem p) {
  const int group = static_cast<int>(threadIdx.x);
  int64_t size = 0;
  if (group < p.groups)
    size = p.wide_sizes ? static_cast<const int64_t*>(p.sizes)[group]
                        : static_cast<const int32_t*>(p.sizes)[group];
  const int64_t rows = p.rows;
  size = min(max(size, int64_t{0}), rows);
  __shared__ int64_t rows_of_warp[kRowTileThreads / 32];
  int64_t total;
  const int64_t before = sum_before(size, total, rows_of_warp);
  const int first = static_cast<int>(min(before, rows));
  int end = static_cast<int>(min(before + size, rows));
  if (group == p.groups) end = p.rows;
  write_row_tiles(first, end, p.tile_rows, p.row_tiles, p.tiles);
}

}  // namespace

void row_tiles_of_sizes_sm80(const RowTilesProblem& p, cudaStream_t stream) {
  row_tiles_of_sizes<<<1, kRowTileThreads, 0, stream>>>(p);
}

}  // namespace mn
