// The logits of a run of panels for every row, whatever the format of the head: the teacher's may
// differ from the student's.
#pragma once

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
  const PackedLayout& l = head.w.layout;
  pack_rows<F>(head.x, head.rows.blocks[job / head.rows.most_tiles], job % head.rows.most_tiles,
               l.inputs, l.steps(), head.packed_rows);
}

MN_INLINE void pack_job(const Head& head, int64_t job) {
  if (head.w.layout.format == Format::bf16)
    pack_head_rows<Bf16Format>(head, job);
  else
    pack_head_rows<F32Format>(head, job);
}

// Panels [first, first + count) times the rows of the blocks from `from` on into c[row][32 *
// panel], four panels at a time: a plain panel is packed into `buffer`, which has room for four,
// once for all rows.
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
      multiply<F>(packed_block<F>(head.packed_rows, block, l.steps()), panels, static_cast<int>(n),
                  l.steps(), c + block.first_row * ldc + panel * kPanel, ldc);
    }
  }
}

MN_INLINE void logits(const Head& head, int64_t from, int64_t first, int64_t count, float* c,
                      int64_t ldc, char* buffer) {
  if (head.w.layout.format == Format::bf16)
    head_logits<Bf16Format>(head, from, first, count, c, ldc, buffer);
  else
    head_logits<F32Format>(head, from, first, count, c, ldc, buffer);
}

}  // namespace
}  // namespace mn::MN_ISA
