// Products y = x W^T on a GPU: what a call hands to the kernels, and how it is laid over the
// device. Plain numbers, so that a plan can be printed and tested alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/cuda/properties.h"

namespace mn {

// A block's rows of one group, [first, end). Nothing to do where they are equal; group `groups` of
// the problem stands for rows that belong to no group: their result is 0.
struct alignas(16) RowTile {
  int32_t group, first, end, unused;
};

enum class GemmOutput : uint8_t {
  bf16,
  f32,
  swiglu,  // silu(first half of the outputs) * second half, in the weights' dtype
};

struct GemmSm80Problem {
  int32_t rows, outputs, inputs;  // outputs: rows of one weight
  int32_t groups;
  const void* x;
  int64_t x_stride;      // elements
  const int32_t* index;  // row r of the product reads row index[r] of x; null: row r
  const void* w;
  int64_t w_stride, group_stride;  // elements
  const RowTile* tiles;            // [row_tiles of the plan], on the device; null: one group
  void* y;                         // dense
  bool x_bf16, w_bf16;             // float32 rows go with float32 weights
  GemmOutput output;
};

// Of a block. In each multiplication step `depth` inputs are in one of `stages` buffers.
struct TileShape {
  int rows, columns, depth, stages, threads;
};

// bf16 weights: mma.sync. A warp makes 16 x 16, 32 x 32 and 64 x 32 sums.
inline constexpr int kSmallTile = 0, kMediumTile = 1, kLargeTile = 2;
inline constexpr TileShape kBf16Tiles[] = {
    {16, 32, 64, 6, 64}, {64, 64, 64, 4, 128}, {128, 128, 64, 3, 256}};
// float32 weights: multiply-adds in the order of the inputs, so that the sums are those of the CPU.
inline constexpr TileShape kF32Tiles[] = {{8, 32, 64, 3, 128}, {64, 64, 32, 3, 256}};
// Rows of float32 weights are this much longer in shared memory: eight neighbours, which the
// threads of a warp read together, lie in different banks.
inline constexpr int kF32Padding = 16;

struct GemmSm80Plan {
  int tile;   // of kBf16Tiles or kF32Tiles
  bool wide;  // copies of 16 bytes; false: element by element
  TileShape shape;
  int64_t row_tiles, column_tiles;
  int shared_bytes;

  int64_t blocks() const { return row_tiles * column_tiles; }
  std::string describe() const;
};

// `problem.tiles` and `problem.y` are not looked at. Rows and outputs are positive. With `tile` the
// choice is made already; kMediumTile serves every problem.
GemmSm80Plan plan_gemm_sm80(const GemmSm80Problem& problem, bool grouped, const Gpu& gpu,
                            std::optional<int> tile = std::nullopt);

}  // namespace mn
