// From float32 sums to rows of the result.
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

// y[row][0 .. columns) = c[row][0 .. columns), rounded once.
template <class Y>
MN_INLINE void store_rows(const float* c, int64_t ldc, int rows, int64_t columns, Y* y,
                          int64_t y_stride) {
  for (int r = 0; r < rows; ++r) {
    const float* from = c + r * ldc;
    Y* to = y + r * y_stride;
    int64_t j = 0;
    for (; j + 16 <= columns; j += 16) f32x16::load(from + j).store(to + j);
    if (j < columns) f32x16::load(from + j).store_n(to + j, static_cast<int>(columns - j));
  }
}

// Rows of a result that will be stored: each lies on lines of its own.
MN_INLINE void prefetch_rows(const char* y, int64_t stride, int64_t rows, int64_t bytes) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t b = 0; b < bytes; b += 64) prefetch(y + r * stride + b);
}

}  // namespace
}  // namespace mn::MN_ISA
