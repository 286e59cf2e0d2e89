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
  const typename F::Value* b[4];
  int64_t steps;
  int64_t ahead;       // bytes from a load of b to its prefetch
  const char* later;   // what a later tile reads: one line per step is brought into L2,
  int64_t later_step;  // so many bytes apart
  float* c;            // R rows, `ldc` floats apart
  int64_t ldc;
  bool first;  // sums start at zero instead of at c
};

template <class F, int R, int P>
void tile(const TileArgs<F>& args) {
  constexpr int V = 2 * P;
  f32x16 acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      acc[r][v] = args.first ? f32x16::zero() : f32x16::load(args.c + r * args.ldc + 16 * v);

  const typename F::Value* a = args.a;
  const typename F::Value* b[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) b[p] = args.b[p];
  const int64_t ahead = args.ahead, later_step = args.later_step;
  const char* later = args.later;
  for (int64_t s = args.steps; s > 0; --s) {
    typename F::Operand w[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      w[v] = F::load(b[v / 2] + v % 2 * F::kVector);
      prefetch(reinterpret_cast<const char*>(b[v / 2] + v % 2 * F::kVector) + ahead);
    }
    prefetch_l2(later);
    later += later_step;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = F::broadcast(a + r * F::kDepth);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] = F::accumulate(acc[r][v], x, w[v]);
    }
    a += R * F::kDepth;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) b[p] += 2 * F::kVector;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v].store(args.c + r * args.ldc + 16 * v);
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
template <class F, int P>
struct TileTable {
  TileKernel<F> of_rows[kMaxRows] = {};
  template <int R>
  constexpr void fill() {
    if constexpr (R <= tile_rows<F>(P)) {
      of_rows[R - 1] = tile<F, R, P>;
      fill<R + 1>();
    }
  }
  constexpr TileTable() { fill<1>(); }
};

template <class F>
constexpr TileTable<F, 1> kTiles1{};
template <class F>
constexpr TileTable<F, 2> kTiles2{};
template <class F>
constexpr TileTable<F, 3> kTiles3{};
template <class F>
constexpr TileTable<F, 4> kTiles4{};

template <class F>
MN_INLINE TileKernel<F> tile_kernel(int rows, int panels) {
  switch (panels) {
    case 1:
      return kTiles1<F>.of_rows[rows - 1];
    case 2:
      return kTiles2<F>.of_rows[rows - 1];
    case 3:
      return kTiles3<F>.of_rows[rows - 1];
    default:
      return kTiles4<F>.of_rows[rows - 1];
  }
}

}  // namespace
}  // namespace mn::MN_ISA
