// The second product of a routed layer and the sum over a token's slots. With many rows a job owns
// some columns of every token, so that no other thread's results are needed and no product leaves
// the cache. With few rows reading the weights takes the time: each expert's are read as one
// stream, and the products of all rows are stored before they are summed.
#pragma once

#include "experts/problem.h"
#include "gemm/coded_rows.h"
#include "gemm/multiply.h"
#include "gemm/panels.h"
#include "gemm/rows.h"

namespace mn::MN_ISA {
namespace {

// y[token][column .. column + columns), for the tokens [begin, end), from the sorted rows of their
// slots, added in slot order.
template <class Y>
void combine(const SlotSum& p, const float* sums, int64_t lds, int64_t column, int64_t columns,
             int64_t begin, int64_t end) {
  Y* y = static_cast<Y*>(p.y) + begin * p.w.layout.outputs + column;
  for (int64_t t = begin; t < end; ++t, y += p.w.layout.outputs)
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

MN_INLINE void combine(const SlotSum& p, const float* sums, int64_t lds, int64_t column,
                       int64_t columns, int64_t begin, int64_t end) {
  if (p.y_bf16)
    combine<bf16>(p, sums, lds, column, columns, begin, end);
  else
    combine<float>(p, sums, lds, column, columns, begin, end);
}

// Stored products of one block of rows with the packed panels [begin, end).
template <class F>
void slot_product_job(const SlotSum& p, int64_t b, int64_t begin, int64_t end) {
  const RowBlock& block = p.rows.blocks[b];
  const PackedLayout& l = p.w.layout;
  const int64_t lds = product_stride(l), at_once = panels_at_once<F>(block);
  for (int64_t panel = begin; panel < end; panel += at_once) {
    const int64_t count = lesser(at_once, end - panel);
    const typename F::Value* panels[kMostPanels];
    for (int64_t i = 0; i < count; ++i)
      panels[i] = panel_of<F>(p.w, block.group, panel + i, nullptr);
    const bool block_ends = panel + count == l.panels() && b + 1 < p.rows.count;
    multiply_panels<F>(l, packed_block<F>(p.packed, block, row_steps<F>(l)), panels, count,
                       p.products + block.first_row * lds + panel * kPanel, lds,
                       block_ends ? panel_ahead(p.w, p.rows.blocks[b + 1].group, 0) : nullptr);
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
    const bool last = block_end == p.rows.count;
    const void* next = panel_ahead(p.w, last ? g : p.rows.blocks[block_end].group, begin);
    for (int64_t panel = begin; panel < end; panel += 4) {
      const int64_t count = lesser(4, end - panel);
      const typename F::Value* panels[4];
      for (int64_t i = 0; i < count; ++i)
        panels[i] = panel_of<F>(p.w, g, panel + i, buffer + i * l.panel_bytes());
      for (int64_t b = block_begin; b < block_end; ++b) {
        const RowBlock& block = p.rows.blocks[b];
        multiply_panels<F>(l, packed_block<F>(p.packed, block, row_steps<F>(l)), panels, count,
                           sums + block.first_row * lds + (panel - begin) * kPanel, lds,
                           panel + count < end ? nullptr : next);
      }
    }
  }
  const int64_t column = begin * kPanel, columns = lesser(lds, l.outputs - column);
  combine(p, sums, lds, column, columns, 0, p.tokens);
}

}  // namespace
}  // namespace mn::MN_ISA
