// The second product of a routed layer together with the sum over a token's slots: a job owns some
// columns of every token, so no other thread's results are needed.
#pragma once

#include "experts/problem.h"
#include "gemm/multiply.h"
#include "gemm/panels.h"
#include "gemm/rows.h"

namespace mn::MN_ISA {
namespace {

// y[token][column .. column + columns) from the sorted rows of its slots, added in slot order.
template <class Y>
void combine(const SlotSum& p, const float* sums, int64_t lds, int64_t column, int64_t columns) {
  Y* y = static_cast<Y*>(p.y) + column;
  for (int64_t t = 0; t < p.tokens; ++t, y += p.w.layout.outputs)
    for (int64_t j = 0; j < columns; j += 16) {
      f32x16 acc = f32x16::zero();
      for (int64_t k = 0; k < p.slots; ++k) {
        const int64_t pair = t * p.slots + k;
        const float* from = sums + (p.position ? p.position[pair] : pair) * lds + j;
        const f32x16 weight = f32x16::set1(p.weights ? p.weights[pair] : 1.f);
        acc = fma(weight, f32x16::load(from), acc);
      }
      if (columns - j >= 16)
        acc.store(y + j);
      else
        acc.store_n(y + j, static_cast<int>(columns - j));
    }
}

// Columns of the panels [begin, end). The scratch holds the sums of all rows, then four panels.
template <class F>
void slot_sum_job(const SlotSum& p, int64_t begin, int64_t end, char* scratch) {
  const PackedLayout& l = p.w.layout;
  const int64_t lds = (end - begin) * kPanel;
  float* sums = reinterpret_cast<float*>(scratch);
  char* buffer = scratch + row_count(p.rows) * lds * 4;
  for (int64_t g = 0; g < p.rows.groups; ++g) {
    const int64_t block_begin = p.rows.group_first[g], block_end = p.rows.group_first[g + 1];
    if (block_begin == block_end) continue;
    for (int64_t panel = begin; panel < end; panel += 4) {
      const int64_t count = lesser(4, end - panel);
      const typename F::Value* panels[4];
      for (int64_t i = 0; i < count; ++i)
        panels[i] = panel_of<F>(p.w, g, panel + i, buffer + i * l.panel_bytes());
      for (int64_t b = block_begin; b < block_end; ++b) {
        const RowBlock& block = p.rows.blocks[b];
        multiply<F>(packed_block<F>(p.packed, block, l.steps()), panels, static_cast<int>(count),
                    l.steps(), sums + block.first_row * lds + (panel - begin) * kPanel, lds);
      }
    }
  }
  const int64_t column = begin * kPanel, columns = lesser(lds, l.outputs - column);
  if (p.y_bf16)
    combine<bf16>(p, sums, lds, column, columns);
  else
    combine<float>(p, sums, lds, column, columns);
}

}  // namespace
}  // namespace mn::MN_ISA
