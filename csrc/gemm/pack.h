// Rows into tiles and weights into panels. Both put one source row into one lane: 16 rows of 16
// words are transposed at a time, where a word is one step of a row, a pair of bf16 or a float.
#pragma once

#include "gemm/formats/bf16.h"
#include "gemm/formats/f32.h"
#include "gemm/packed.h"
#include "simd/transpose.h"

namespace mn::MN_ISA {
namespace {

// Words [first, first + 16) of a row of `inputs` values; zero past its end.
template <class F>
MN_INLINE u32x16 load_words(const typename F::Value* row, int64_t first, int64_t inputs) {
  const typename F::Value* p = row + first * F::kDepth;
  const int64_t left = inputs - first * F::kDepth;
  if (left <= 0) return u32x16::zero();
  if (left >= 16 * F::kDepth) return u32x16::load_n(p, 16);
  uint32_t words[16] = {};
  std::memcpy(words, p, static_cast<size_t>(left) * sizeof(typename F::Value));
  return u32x16::load_n(words, 16);
}

// bf16 rows for float32 arithmetic.
template <class F>
MN_INLINE u32x16 load_words(const bf16* row, int64_t first, int64_t inputs)
  requires(F::kDepth == 1)
{
  float words[16];
  const int64_t left = inputs - first;
  if (left <= 0) return u32x16::zero();
  f32x16::load_n(row + first, left < 16 ? static_cast<int>(left) : 16).store(words);
  return u32x16::load_n(words, 16);
}

// out [steps][n]: the word of each of `n` (at most 16) rows.
template <class F, class Source>
void pack_tile(const Source* const* rows, int n, int64_t inputs, int64_t steps, void* out) {
  uint32_t* to = static_cast<uint32_t*>(out);
  for (int64_t s = 0; s < steps; s += 16, to += 16 * n) {
    u32x16 x[16];
    for (int i = 0; i < n; ++i) x[i] = load_words<F>(rows[i], s, inputs);
    for (int i = n; i < 16; ++i) x[i] = u32x16::zero();
    transpose(x);
    const int count = steps - s < 16 ? static_cast<int>(steps - s) : 16;
    // Whole vectors where they end within the tile; the next one overwrites what is too much.
    const int64_t last_whole = (steps - s) * n - 16;
    for (int j = 0; j < count; ++j) {
      if (j * n <= last_whole)
        x[j].store_n(to + j * n, 16);
      else
        x[j].store_n(to + j * n, n);
    }
  }
}

// One panel of the `n` (at most 32) rows of a weight.
template <class F>
void pack_panel(const typename F::Value* weight, int64_t row_stride, int n, int64_t inputs,
                int64_t steps, void* out) {
  for (int v = 0; v < 2; ++v) {
    uint32_t* to = static_cast<uint32_t*>(out) + 16 * v;
    for (int64_t s = 0; s < steps; s += 16) {
      u32x16 x[16];
      for (int i = 0; i < 16; ++i)
        x[i] = 16 * v + i < n ? load_words<F>(weight + (16 * v + i) * row_stride, s, inputs)
                              : u32x16::zero();
      transpose(x);
      const int count = steps - s < 16 ? static_cast<int>(steps - s) : 16;
      for (int j = 0; j < count; ++j) x[j].store_n(to + (s + j) * 32, 16);
    }
  }
}

// One panel whose lanes are `lanes` columns from `column` on and whose inputs are `rows` rows;
// `row(i)` points to row i.
template <class F, class Row>
MN_INLINE void pack_columns(const Row& row, int64_t rows, int64_t column, int lanes, void* out) {
  // A line or two of each row: no stream that the hardware would recognise.
  constexpr int64_t kAhead = 24;
  const bf16 zeros[32] = {};
  uint32_t* to = static_cast<uint32_t*>(out);
  for (int64_t i = 0; i < rows; i += F::kDepth, to += 32) {
    const typename F::Value* p = row(i) + column;
    for (int64_t next = i + kAhead; next < i + kAhead + F::kDepth; ++next)
      prefetch(row(next < rows ? next : i) + column);
    const int low = lanes < 16 ? lanes : 16, high = lanes - low;
    if constexpr (F::kDepth == 1) {
      u32x16::load_n(p, low).store_n(to, 16);
      u32x16::load_n(p + low, high).store_n(to + 16, 16);
    } else {
      const bf16* next = i + 1 < rows ? row(i + 1) + column : zeros;
      u32x16::interleave_n(p, next, low).store_n(to, 16);
      u32x16::interleave_n(p + low, next + low, high).store_n(to + 16, 16);
    }
  }
}

// The inverse of pack_panel.
template <class F>
void unpack_panel(const void* panel, int n, int64_t inputs, int64_t steps,
                  typename F::Value* weight, int64_t row_stride) {
  for (int v = 0; v < 2; ++v) {
    const uint32_t* from = static_cast<const uint32_t*>(panel) + 16 * v;
    for (int64_t s = 0; s < steps; s += 16) {
      u32x16 x[16];
      for (int j = 0; j < 16; ++j)
        x[j] = s + j < steps ? u32x16::load_n(from + (s + j) * 32, 16) : u32x16::zero();
      transpose(x);
      const int64_t left = inputs - s * F::kDepth;
      const int64_t values = left < 16 * F::kDepth ? left : 16 * F::kDepth;
      for (int i = 0; i < 16 && 16 * v + i < n; ++i) {
        uint32_t words[16];
        x[i].store_n(words, 16);
        std::memcpy(weight + (16 * v + i) * row_stride + s * F::kDepth, words,
                    static_cast<size_t>(values) * sizeof(typename F::Value));
      }
    }
  }
}

}  // namespace
}  // namespace mn::MN_ISA
