// Packing the rows of a product, one tile per job.
#pragma once

#include "gemm/multiply.h"
#include "gemm/pack.h"
#include "gemm/problem.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE int64_t row_count(const Rows& rows) {
  const RowBlock& last = rows.blocks[rows.count - 1];
  return last.first_row + last.rows;
}

template <class F>
MN_INLINE typename F::Value* packed_at(void* packed, int64_t row, int64_t steps) {
  return static_cast<typename F::Value*>(packed) + row * steps * F::kDepth;
}

template <class F>
MN_INLINE PackedRows<F> packed_block(const void* packed, const RowBlock& block, int64_t steps) {
  return {packed_at<F>(const_cast<void*>(packed), block.first_row, steps), block.rows,
          block.height};
}

template <class F, class Source>
void gather_tile(const RowSource& x, int64_t first, int n, int64_t inputs, int64_t steps,
                 typename F::Value* out) {
  const Source* rows[kMaxRows];
  for (int i = 0; i < n; ++i)
    rows[i] =
        static_cast<const Source*>(x.data) + (x.index ? x.index[first + i] : first + i) * x.stride;
  if constexpr (sizeof(Source) == sizeof(typename F::Value)) {
    if (n == 1) {  // one row is its own packed form
      std::memcpy(out, rows[0], static_cast<size_t>(inputs) * sizeof(Source));
      if (inputs < steps * F::kDepth) out[inputs] = 0;
      return;
    }
  }
  pack_tile<F>(rows, n, inputs, steps, out);
}

// Packs tile `tile` of a block, if it has so many.
template <class F>
void pack_rows(const RowSource& x, const RowBlock& block, int64_t tile, int64_t inputs,
               int64_t steps, void* packed) {
  const int64_t row = tile * block.height;
  if (row >= block.rows) return;
  const int n = static_cast<int>(block.rows - row < block.height ? block.rows - row : block.height);
  typename F::Value* out = packed_at<F>(packed, block.first_row + row, steps);
  if constexpr (F::kDepth == 1) {
    if (x.bf16) return gather_tile<F, bf16>(x, block.first_row + row, n, inputs, steps, out);
  }
  gather_tile<F, typename F::Value>(x, block.first_row + row, n, inputs, steps, out);
}

}  // namespace
}  // namespace mn::MN_ISA
