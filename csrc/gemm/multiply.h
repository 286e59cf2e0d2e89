// A block of packed rows times a few panels: the loop over register tiles.
#pragma once

#include "gemm/problem.h"
#include "gemm/tile.h"

namespace mn::MN_ISA {
namespace {

// Steps of a panel (64 KiB) that stay in L2 while the tiles of a block pass over them.
constexpr int64_t kChunkSteps = 512;
// Bytes in flight where each weight is read once: what the memory returns within its latency.
constexpr int64_t kStreamAhead = 8192;

// Rows packed tile by tile: tile t holds rows [t * height, min(rows, (t + 1) * height)) as
// [steps][rows of the tile][depth].
template <class F>
struct PackedRows {
  const typename F::Value* data;
  int rows, height;
};

// How many panels to read side by side: several streams use the memory better, and few rows leave
// registers for them.
template <class F>
MN_INLINE int streams_for(int rows) {
  for (int panels = 4; panels > 1; --panels)
    if (fits<F>(rows, panels)) return panels;
  return 1;
}

// Panels to compute before their sums are stored.
template <class F>
MN_INLINE int panels_at_once(const RowBlock& block) {
  return block.rows <= block.height ? streams_for<F>(block.rows) : 1;
}

// A panel times a block of several tiles. They pass over chunks that stay in L2, and the first two
// of them bring what follows, half of it each, so that the memory is busy without being waited for.
template <class F>
void multiply_chunks(const PackedRows<F>& x, const typename F::Value* panel, const void* next,
                     int64_t steps, float* c, int64_t ldc) {
  TileArgs<F> args;
  args.ldc = ldc;
  args.ahead = 0;
  for (int64_t s = 0; s < steps; s += kChunkSteps) {
    args.steps = steps - s < kChunkSteps ? steps - s : kChunkSteps;
    args.first = s == 0;
    args.b[0] = panel + s * 2 * F::kVector;
    const char* chunk = reinterpret_cast<const char*>(args.b[0]);
    const char* following =
        s + args.steps < steps ? chunk + args.steps * kStepBytes : static_cast<const char*>(next);
    for (int row = 0; row < x.rows; row += x.height) {
      const int rows = x.rows - row < x.height ? x.rows - row : x.height;
      const int tile = row / x.height;
      args.a = x.data + (row * steps + s * rows) * F::kDepth;
      args.c = c + row * ldc;
      args.later = tile < 2 ? following + tile * args.steps * (kStepBytes / 2) : chunk;
      args.later_step = tile < 2 ? kStepBytes / 2 : 0;
      tile_kernel<F>(rows, 1)(args);
    }
  }
}

// c[row][32 * panel + output] = sum over steps, for the `count` (at most 4) panels given. `next` is
// what will be read after them, by default what follows the last in memory.
template <class F>
void multiply(const PackedRows<F>& x, const typename F::Value* const* panels, int count,
              int64_t steps, float* c, int64_t ldc, const void* next = nullptr) {
  if (next == nullptr) next = panels[count - 1] + steps * 2 * F::kVector;
  if (x.rows > x.height) {
    for (int p = 0; p < count; ++p)
      multiply_chunks<F>(x, panels[p], p + 1 < count ? panels[p + 1] : next, steps, c + p * kPanel,
                         ldc);
    return;
  }
  TileArgs<F> args;
  args.ldc = ldc;
  args.a = x.data;
  args.steps = steps;
  args.first = true;
  args.later_step = 0;
  const int streams = streams_for<F>(x.rows);
  for (int p = 0; p < count; p += streams) {
    const int n = count - p < streams ? count - p : streams;
    for (int i = 0; i < n; ++i) args.b[i] = panels[p + i];
    args.ahead = kStreamAhead / n;
    args.later = reinterpret_cast<const char*>(args.b[0]);
    args.c = c + p * kPanel;
    tile_kernel<F>(x.rows, n)(args);
  }
}

}  // namespace
}  // namespace mn::MN_ISA
