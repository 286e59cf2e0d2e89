#include "gemm/row_tiles_sm80.cuh"

namespace mn {
namespace {

__global__ void __launch_bounds__(kRowTileThreads) row_tiles_of_sizes(const RowTilesProblem p) {
  const int group = static_cast<int>(threadIdx.x);
  const int64_t rows = p.rows;
  const int64_t size = group < p.groups ? size_of_group(p.sizes, p.wide_sizes, group, rows) : 0;
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
