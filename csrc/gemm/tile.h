// The register tile: R rows by P panels, one accumulator per output, inputs strictly in order. All
// shapes perform the same operations on one output, hence the same bits for every number of rows.
#pragma once

#include "gemm/formats/bf16.h"
#include "gemm/formats/f32.h"
#include "gemm/packed.h"
#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

// What a tile reads and writes. `a` is packed [steps][R][depth], each panel [steps][2][16][depth].
template <class F>
struct TileArgs {
  const typename F::Value* a;
  const typename F::Value* b[2];
  int64_t steps;
  float* c;         // R rows, `ldc` floats apart
  int64_t c_panel;  // floats from the sums of one panel to those of the next
  int64_t ldc;
  bool first;  // sums start at zero instead of at c

  // Of weights that are read once: bytes from a load of b to its prefetch, and the same for the
  // last steps, whose prefetch is for what is read after this tile.
  int64_t ahead, last_steps, last_ahead;
  // Of weights that stay in L2: what a later tile reads. One line per step is brought into L2, so
  // many bytes apart.
  const char* later;
  int64_t later_step;
};

enum class Weight { read_once, in_l2 };

// Non-temporal: what is read once leaves the caches to the rest.
MN_INLINE void prefetch_once(const void* p) { __builtin_prefetch(p, 0, 0); }

template <class F, int R, int P, Weight kWeight>
void tile(const TileArgs<F>& args) {
  constexpr int V = 2 * P;
  f32x16 acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      acc[r][v] = args.first
                      ? f32x16::zero()
                      : f32x16::load(args.c + r * args.ldc + v / 2 * args.c_panel + v % 2 * 16);

  const typename F::Value* a = args.a;
  const typename F::Value* b[P];
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p) b[p] = args.b[p];
  const int64_t later_step = args.later_step;
  const char* later = args.later;
  const auto run = [&](int64_t steps, int64_t ahead) {
    for (int64_t s = steps; s > 0; --s) {
      typename F::Operand w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        w[v] = F::load(b[v / 2] + v % 2 * F::kVector);
        if constexpr (kWeight == Weight::read_once)
          prefetch_once(reinterpret_cast<const char*>(b[v / 2] + v % 2 * F::kVector) + ahead);
      }
      if constexpr (kWeight == Weight::in_l2) {
        prefetch(later);
        later += later_step;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const auto x = F::broadcast(a + r * F::kDepth);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = F::accumulate(acc[r][v], x, w[v]);
      }
      a += R * F::kDepth;
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) b[p] += 2 * F::kVector;
    }
  };
  if constexpr (kWeight == Weight::read_once) {
    // One loop for both, so that it is compiled once.
    const int64_t steps[2] = {args.steps - args.last_steps, args.last_steps};
    const int64_t ahead[2] = {args.ahead, args.last_ahead};
#pragma GCC unroll 1
    for (int part = 0; part < 2; ++part) run(steps[part], ahead[part]);
  } else {
    run(args.steps, 0);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      acc[r][v].store(args.c + r * args.ldc + v / 2 * args.c_panel + v % 2 * 16);
}

// Whether the accumulators of rows x panels and the operands of one step fit into the register
// file. Where it is small, the compiler is left to load one operand at a time.
template <class F>
constexpr bool fits(int rows, int panels) {
  const int v = 2 * panels;
  const int held = kVectorRegisters >= 32 ? v * F::kOperandRegisters : 1;
  return rows * v + held + F::kBroadcastRegisters <= kVectorRegisters;
}

inline constexpr int kMaxRows = 14;

// The most rows of a tile over `panels` panels.
template <class F>
constexpr int tile_rows(int panels) {
  int rows = 1;
  while (rows < kMaxRows && fits<F>(rows + 1, panels)) ++rows;
  return rows;
}

template <class F>
using TileKernel = void (*)(const TileArgs<F>&);

// Kernels of P panels for 1 .. tile_rows(P) rows, entry r - 1.
template <class F, int P, Weight kWeight>
struct TileTable {
  TileKernel<F> of_rows[kMaxRows] = {};
  template <int R>
  constexpr void fill() {
    if constexpr (R <= tile_rows<F>(P)) {
      of_rows[R - 1] = tile<F, R, P, kWeight>;
      fill<R + 1>();
    }
  }
  constexpr TileTable() { fill<1>(); }
};

template <class F, int P, Weight kWeight>
constexpr TileTable<F, P, kWeight> kTiles{};

}  // namespace
}  // namespace mn::MN_ISA
