// SwiGLU on a float32 tile, and its way into the packed rows of the second product.
#pragma once

#include "gemm/coded_rows.h"
#include "gemm/panels.h"
#include "gemm/rows.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE f32x16 swiglu(f32x16 gate, f32x16 up) { return silu(gate) * up; }

struct SwigluGrad {
  f32x16 gate, up, h;  // h is the activation itself
};

// silu' = sigmoid (1 + gate (1 - sigmoid)).
MN_INLINE SwigluGrad swiglu_grad(f32x16 gate, f32x16 up, f32x16 dh) {
  const f32x16 one = f32x16::set1(1.f), s = sigmoid(gate);
  const f32x16 activated = gate * s;
  return {dh * up * s * fma(gate, one - s, one), dh * activated, activated * up};
}

// Words of 16 steps of one row: activations [column, column + 16 * depth), zero from `ffn` on.
template <class F>
MN_INLINE u32x16 activation_words(const float* gate, const float* up, int64_t left) {
  typename F::Value h[16 * F::kDepth] = {};
#pragma GCC unroll 2
  for (int v = 0; v < F::kDepth; ++v) {
    const int64_t n = left - 16 * v;
    if (n <= 0) break;
    swiglu(f32x16::load(gate + 16 * v), f32x16::load(up + 16 * v))
        .store_n(h + 16 * v, n < 16 ? static_cast<int>(n) : 16);
  }
  return u32x16::load_n(h, 16);
}

// Activations [column, column + 32) of row `row` of a tile of `n` rows, into their granule.
MN_INLINE void quantise_activations(const float* gate, const float* up, int64_t left, void* granule,
                                    int n, int row) {
  f32x16 h[2];
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    h[v] = swiglu(f32x16::load(gate + 16 * v), f32x16::load(up + 16 * v));
    if (left < 16 * (v + 1))
      h[v] = select((1u << (left > 16 * v ? left - 16 * v : 0)) - 1, h[v], f32x16::zero());
  }
  quantise_granule(h[0], h[1], granule, n, row);
}

template <class F>
  requires(quantised<F>)
void store_activations(const float* gate, const float* up, int64_t ldc, const RowBlock& block,
                       int64_t column, const PackedLayout& down, void* packed_h) {
  const int64_t before = column / kGranule * QuantisedRows::kGranuleWords;
  for (int row = 0; row < block.rows; row += block.height) {
    const int n = block.rows - row < block.height ? block.rows - row : block.height;
    uint32_t* tile = reinterpret_cast<uint32_t*>(
        packed_at<F>(packed_h, block.first_row + row, row_steps<F>(down)));
    for (int i = 0; i < n; ++i)
      quantise_activations(gate + (row + i) * ldc, up + (row + i) * ldc, down.inputs - column,
                           tile + before * n, n, i);
  }
}

// Activations [column, column + 32) of a block; gate and up are rows of `ldc` floats.
template <class F>
  requires(!quantised<F>)
void store_activations(const float* gate, const float* up, int64_t ldc, const RowBlock& block,
                       int64_t column, const PackedLayout& down, void* packed_h) {
  const int64_t ffn = down.inputs, steps = row_steps<F>(down);
  const bool has_min = down.coded() && coding_of(down.format).has_min;
  // Words of the row before this granule, of which codes see whole ones only.
  const int64_t before = column / F::kDepth + (has_min ? column / kGranule : 0);
  const int64_t end = down.coded() ? kPanel : lesser(kPanel, ffn - column);
  for (int row = 0; row < block.rows; row += block.height) {
    const int n = block.rows - row < block.height ? block.rows - row : block.height;
    uint32_t* tile =
        reinterpret_cast<uint32_t*>(packed_at<F>(packed_h, block.first_row + row, steps));
    for (int64_t j = 0; j < end; j += 16 * F::kDepth) {
      const int64_t step = before + j / F::kDepth;
      const int count = static_cast<int>(lesser(16, steps - step));
      u32x16 x[16];
      for (int i = 0; i < n; ++i) {
        const int64_t at = (row + i) * ldc + j;
        x[i] = activation_words<F>(gate + at, up + at, ffn - column - j);
      }
      if (n == 1) {
        x[0].store_n(tile + step, count);
        continue;
      }
      for (int i = n; i < 16; ++i) x[i] = u32x16::zero();
      transpose(x);
      for (int i = 0; i < count; ++i) x[i].store_n(tile + (step + i) * n, n);
    }
    if (has_min) {
      uint32_t* granule = tile + before * n;
      if constexpr (Coded<F>) sum_granule<F>(granule, n, granule + kGranule / F::kDepth * n);
    }
  }
}

}  // namespace
}  // namespace mn::MN_ISA
