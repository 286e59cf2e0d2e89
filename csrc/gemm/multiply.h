// A block of packed rows times a few panels: the loop over register tiles.
#pragma once

#include "gemm/problem.h"
#include "gemm/tile.h"

namespace mn::MN_ISA {
namespace {

// Steps of a panel (64 KiB) that stay in L2 while the tiles of a block pass over them.
constexpr int64_t kChunkSteps = 512;
// Bytes in flight where each weight is read once: what the memory returns within its latency. Two
// streams are followed better by what prefetches by itself; with many rows fewer loads run ahead.
constexpr int64_t kStreamsAhead = 6144, kFewAhead = 8192, kManyAhead = 12288;
constexpr int kManyRows = 11;

// Rows packed tile by tile: tile t holds rows [t * height, min(rows, (t + 1) * height)) as
// [steps][rows of the tile][depth].
template <class F>
struct PackedRows {
  const typename F::Value* data;
  int rows, height;
};

// Panels to compute before their sums are stored: few rows read long streams.
inline constexpr int kMostPanels = 32;
template <class F>
MN_INLINE int panels_at_once(const RowBlock& block) {
  return block.rows <= block.height ? kMostPanels : 1;
}

// A panel times a block of several tiles. They pass over chunks that stay in L2, and the first two
// of them bring what follows, half of it each, so that the memory is busy without being waited for.
template <class F>
void multiply_chunks(const PackedRows<F>& x, const typename F::Value* panel, const void* next,
                     int64_t steps, float* c, int64_t ldc) {
  TileArgs<F> args{};
  args.ldc = ldc;
  args.c_panel = kPanel;
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
      kTiles<F, 1, Weight::in_l2>.of_rows[rows - 1](args);
    }
  }
}

// From a step of a panel to what is read after it.
template <class F>
MN_INLINE int64_t bytes_between(const typename F::Value* panel, int64_t step, const void* next) {
  return reinterpret_cast<intptr_t>(next) -
         reinterpret_cast<intptr_t>(panel + step * 2 * F::kVector);
}

// One panel after the other times a block of one tile; `next` is read after them.
template <class F>
void multiply_stream(const PackedRows<F>& x, const typename F::Value* const* panels, int count,
                     const void* next, int64_t steps, float* c, int64_t ldc) {
  TileArgs<F> args{};
  args.a = x.data;
  args.steps = steps;
  args.ldc = ldc;
  args.c_panel = kPanel;
  args.first = true;
  args.ahead = x.rows < kManyRows ? kFewAhead : kManyAhead;
  args.last_steps = args.ahead / kStepBytes < steps ? args.ahead / kStepBytes : steps;
  for (int p = 0; p < count; ++p) {
    args.b[0] = panels[p];
    args.c = c + p * kPanel;
    const void* following = p + 1 < count ? panels[p + 1] : next;
    args.last_ahead = bytes_between<F>(panels[p], steps - args.last_steps, following);
    kTiles<F, 1, Weight::read_once>.of_rows[x.rows - 1](args);
  }
}

// Panels p and `half` + p side by side: two long streams use the memory best, and what prefetches
// by itself follows both. `next` is where the first one goes on, the second as far from it as now;
// null where that is not known.
template <class F>
void multiply_streams(const PackedRows<F>& x, const typename F::Value* const* panels, int half,
                      const void* next, int64_t steps, float* c, int64_t ldc) {
  TileArgs<F> args{};
  args.a = x.data;
  args.steps = steps;
  args.ldc = ldc;
  args.c_panel = half * kPanel;
  args.first = true;
  args.ahead = args.last_ahead = kStreamsAhead / 2;
  args.last_steps = 0;
  for (int p = 0; p < half; ++p) {
    args.b[0] = panels[p];
    args.b[1] = panels[half + p];
    args.c = c + p * kPanel;
    if (p + 1 == half && next != nullptr) {
      args.last_steps = args.ahead / kStepBytes < steps ? args.ahead / kStepBytes : steps;
      args.last_ahead = bytes_between<F>(panels[p], steps - args.last_steps, next);
    }
    kTiles<F, 2, Weight::read_once>.of_rows[x.rows - 1](args);
  }
}

// c[row][32 * panel + output] = sum over steps, for the panels given. `next` is what will be read
// after them, by default what follows the last in memory.
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
  int done = 0;
  if constexpr (fits<F>(1, 2)) {
    if (fits<F>(x.rows, 2)) {
      multiply_streams<F>(x, panels, count / 2, count % 2 ? nullptr : next, steps, c, ldc);
      done = count / 2 * 2;
    }
  }
  multiply_stream<F>(x, panels + done, count - done, next, steps, c + done * kPanel, ldc);
}

}  // namespace
}  // namespace mn::MN_ISA
