// The logits of a run of panels for every row, whatever the format of the head: the teacher's may
// differ from the student's.
#pragma once

#include "gemm/coded_rows.h"
#include "gemm/panels.h"
#include "gemm/rows.h"
#include "loss/problem.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE int64_t pack_jobs(const Head& head) {
  return head.given() ? head.rows.count * head.rows.most_tiles : 0;
}

template <class F>
void pack_head_rows(const Head& head, int64_t job) {
  pack_block_tile<F>(head.x, head.rows.blocks[job / head.rows.most_tiles],
                     job % head.rows.most_tiles, head.w.layout, head.packed_rows);
}

// Panels [first, first + count) times the rows of the blocks from `from` on into
// c[row][32 * panel], four panels at a time: a plain panel is packed into `buffer`, which has room
// for four, once for all rows.
template <class F>
void head_logits(const Head& head, int64_t from, int64_t first, int64_t count, float* c,
                 int64_t ldc, char* buffer) {
  const PackedLayout& l = head.w.layout;
  for (int64_t panel = 0; panel < count; panel += 4) {
    const int64_t n = lesser(4, count - panel);
    const typename F::Value* panels[4];
    for (int64_t i = 0; i < n; ++i)
      panels[i] = panel_of<F>(head.w, 0, first + panel + i, buffer + i * l.panel_bytes());
    for (int64_t b = from; b < head.rows.count; ++b) {
      const RowBlock& block = head.rows.blocks[b];
      multiply_panels<F>(l, packed_block<F>(head.packed_rows, block, row_steps<F>(l)), panels, n,
                         c + block.first_row * ldc + panel * kPanel, ldc);
    }
  }
}

// By the head's format and its rows.
template <class Call>
MN_INLINE void with_format(const Head& head, const Call& call) {
  switch (kind_of(head.w.layout, head.x.bf16)) {
    case 0:
      return call.template operator()<Bf16Format>();
    case 1:
      return call.template operator()<F32Format>();
    case 2:
      return call.template operator()<CodedBf16>();
    case 3:
      return call.template operator()<CodedF32>();
    default:
      return call.template operator()<CodedQuantised>();
  }
}

MN_INLINE void pack_job(const Head& head, int64_t job) {
  with_format(head, [&]<class F>() { pack_head_rows<F>(head, job); });
}

MN_INLINE void logits(const Head& head, int64_t from, int64_t first, int64_t count, float* c,
                      int64_t ldc, char* buffer) {
  with_format(head, [&]<class F>() { head_logits<F>(head, from, first, count, c, ldc, buffer); });
}

}  // namespace
}  // namespace mn::MN_ISA
