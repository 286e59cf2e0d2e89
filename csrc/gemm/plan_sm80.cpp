#include "gemm/plan_sm80.h"

#include <algorithm>

namespace mn {
namespace {

constexpr int kCopyBytes = 16;
int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool aligned(const void* pointer, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % kCopyBytes == 0 && stride_bytes % kCopyBytes == 0;
}

int bytes_of(const GemmSm80Problem& p, const TileShape& s) {
  if (p.w_bf16) return s.stages * (s.rows + s.columns) * s.depth * 2;
  const int x_row = s.depth * (p.x_bf16 ? 2 : 4), w_row = s.depth * 4 + kF32Padding;
  return s.stages * (s.rows * x_row + s.columns * w_row);
}

}  // namespace

GemmSm80Plan plan_gemm_sm80(const GemmSm80Problem& p, bool grouped, const Gpu& gpu,
                            std::optional<int> tile) {
  GemmSm80Plan plan{};
  const int x_size = p.x_bf16 ? 2 : 4, w_size = p.w_bf16 ? 2 : 4;
  plan.wide = aligned(p.x, p.x_stride * x_size) && aligned(p.w, p.w_stride * w_size) &&
              (p.groups == 1 || p.group_stride * w_size % kCopyBytes == 0);

  const auto lay = [&](int chosen) {
    plan.tile = chosen;
    plan.shape = p.w_bf16 ? kBf16Tiles[chosen] : kF32Tiles[chosen];
    // Each group, and the rows of none, may end in a tile that is not full.
    plan.row_tiles = grouped ? p.rows / plan.shape.rows + std::min(p.groups + 1, p.rows)
                             : divide_up(p.rows, plan.shape.rows);
    plan.column_tiles = divide_up(p.outputs, plan.shape.columns);
  };
  const int64_t rows_of_group = divide_up(p.rows, std::clamp(p.groups, 1, p.rows));
  if (tile) {
    lay(*tile);
  } else if (!plan.wide) {
    lay(kMediumTile);
  } else if (rows_of_group <= (p.w_bf16 ? kBf16Tiles : kF32Tiles)[kSmallTile].rows) {
    lay(kSmallTile);
  } else {
    // The larger the tile the fewer bytes a product moves, unless processors go without one.
    lay(p.w_bf16 ? kLargeTile : kMediumTile);
    if (p.w_bf16 &&
        (rows_of_group <= kBf16Tiles[kMediumTile].rows || plan.blocks() < gpu.multiprocessors))
      lay(kMediumTile);
  }
  plan.shared_bytes = bytes_of(p, plan.shape);
  return plan;
}

std::string GemmSm80Plan::describe() const {
  return std::to_string(row_tiles) + " x " + std::to_string(column_tiles) + " tiles of " +
         std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + ", " +
         std::to_string(shape.stages) + " stages of " + std::to_string(shape.depth) + " inputs, " +
         (wide ? "copies of 16 bytes" : "element by element");
}

}  // namespace mn
