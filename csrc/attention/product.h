// The one product that all five sums of the backward pass are: rows of broadcast elements times
// panels of 64 columns, as in the forward's tiles one accumulator per element, depth in order.
#pragma once

#include "attention/tile.h"

namespace mn::MN_ISA {
namespace {

// A panel holds 64 columns, step by step: [depth / kWidth][64][kWidth].
constexpr int64_t kPanelColumns = 64;
constexpr int64_t kPanelVectors = kPanelColumns / 16;

// Element (m, k) of the left operand starts at data + m * row + k / kWidth * step.
template <class T>
struct Left {
  const T* data;
  int64_t row, step;
};

// Register tiles: accumulators, the columns' operands, one broadcast.
template <class T>
constexpr int kProductRows = kVectorRegisters < 32             ? 4
                             : MN_LEVEL == 2 && sizeof(T) == 2 ? 4
                                                               : 6;
constexpr int kProductColumns = kVectorRegisters < 32 ? 1 : 4;

template <class T, int R, int C>
MN_INLINE void product_tile(const Left<T>& a, const T* b, int64_t steps, bool add, float* c,
                            int64_t c_row, Ahead& ahead) {
  using S = Step<T>;
  f32x16 acc[R][C];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < C; ++n)
      acc[r][n] = add ? f32x16::load(c + r * c_row + 16 * n) : f32x16::zero();
  const T* left = a.data;
  Ahead::Tile fetch(ahead, steps);
  for (int64_t k = 0; k < steps; ++k, left += a.step, b += kPanelColumns * S::kWidth) {
    fetch.step();
    typename S::Lanes lanes[C];
    for (int n = 0; n < C; ++n) lanes[n] = S::Lanes::load(b + n * S::kLanes);
    for (int r = 0; r < R; ++r) {
      const typename S::Row broadcast = S::row(left + r * a.row);
      for (int n = 0; n < C; ++n) acc[r][n] = S::add(acc[r][n], broadcast, lanes[n]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < C; ++n) acc[r][n].store(c + r * c_row + 16 * n);
  fetch.finish();
}

template <class T, int R>
MN_INLINE void product_columns(int columns, const Left<T>& a, const T* b, int64_t steps, bool add,
                               float* c, int64_t c_row, Ahead& ahead) {
  if constexpr (kProductColumns == 4) {
    switch (columns) {
      case 4:
        return product_tile<T, R, 4>(a, b, steps, add, c, c_row, ahead);
      case 3:
        return product_tile<T, R, 3>(a, b, steps, add, c, c_row, ahead);
      case 2:
        return product_tile<T, R, 2>(a, b, steps, add, c, c_row, ahead);
      default:
        return product_tile<T, R, 1>(a, b, steps, add, c, c_row, ahead);
    }
  } else {
    for (int n = 0; n < columns; ++n)
      product_tile<T, R, 1>(a, b + n * Step<T>::kLanes, steps, add, c + 16 * n, c_row, ahead);
  }
}

// c[m][n] = (add ? c[m][n] : 0) + sum over k of a[m, k] b[k, n], for `rows` rows and `vectors`
// vectors of columns; panels of b are `panel` elements apart.
template <class T>
void multiply(Left<T> a, int64_t rows, const T* b, int64_t panel, int64_t vectors, int64_t steps,
              bool add, float* c, int64_t c_row, Ahead& ahead) {
  const int64_t tiles = (rows + kProductRows<T> - 1) / kProductRows<T>;
  for (int64_t n = 0; n < vectors; n += kPanelVectors, b += panel, c += kPanelColumns) {
    const int columns =
        vectors - n < kPanelVectors ? static_cast<int>(vectors - n) : int{kPanelVectors};
    Left<T> left = a;
    float* out = c;
    // Tiles of equal height: a low one would leave the multipliers waiting.
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t height = rows / tiles + (t < rows % tiles);
      switch (height) {
        case 1:
          product_columns<T, 1>(columns, left, b, steps, add, out, c_row, ahead);
          break;
        case 2:
          product_columns<T, 2>(columns, left, b, steps, add, out, c_row, ahead);
          break;
        case 3:
          product_columns<T, 3>(columns, left, b, steps, add, out, c_row, ahead);
          break;
        case 4:
          product_columns<T, 4>(columns, left, b, steps, add, out, c_row, ahead);
          break;
        default:
          if constexpr (kProductRows<T> > 4) {
            if (height == 5)
              product_columns<T, 5>(columns, left, b, steps, add, out, c_row, ahead);
            else
              product_columns<T, 6>(columns, left, b, steps, add, out, c_row, ahead);
          }
      }
      left.data += height * left.row;
      out += height * c_row;
    }
  }
}

}  // namespace
}  // namespace mn::MN_ISA
