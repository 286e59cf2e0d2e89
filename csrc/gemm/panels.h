// Where a panel comes from: the packed weight itself, or a plain one that is packed as it is read.
#pragma once

#include "gemm/pack.h"
#include "gemm/problem.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

// `buffer` has room for one panel.
template <class F>
MN_INLINE const typename F::Value* panel_of(const Weights& w, int64_t group, int64_t panel,
                                            char* buffer) {
  using Value = typename F::Value;
  const PackedLayout& l = w.layout;
  if (w.packed)
    return reinterpret_cast<const Value*>(static_cast<const char*>(w.data) +
                                          group * l.expert_bytes() + panel * l.panel_bytes());
  const Value* matrix = static_cast<const Value*>(w.data) + group * w.expert_stride;
  const int64_t output = panel * kPanel;
  const int lanes = static_cast<int>(lesser(kPanel, l.outputs - output));
  if (w.transposed)
    pack_columns<F>([&](int64_t i) { return matrix + i * w.row_stride; }, l.inputs, output, lanes,
                    buffer);
  else
    pack_panel<F>(matrix + output * w.row_stride, w.row_stride, lanes, l.inputs, l.steps(), buffer);
  return reinterpret_cast<const Value*>(buffer);
}

// Where a packed panel begins, for its prefetch; it may lie beyond the weight. Null if not packed.
MN_INLINE const void* panel_ahead(const Weights& w, int64_t group, int64_t panel) {
  if (!w.packed) return nullptr;
  const intptr_t begin = reinterpret_cast<intptr_t>(w.data);
  return reinterpret_cast<const void*>(begin + group * w.layout.expert_bytes() +
                                       panel * w.layout.panel_bytes());
}

// The blocks of one job: one, or a whole group's where each panel costs its packing.
struct BlockRange {
  int64_t group, begin, end;
};

// Jobs are the product of this many ranges with pieces of the panels.
MN_INLINE int64_t range_count(const Rows& rows, const Weights& w) {
  return w.packed ? rows.count : rows.groups;
}
MN_INLINE BlockRange block_range(const Rows& rows, const Weights& w, int64_t i) {
  if (w.packed) return {rows.blocks[i].group, i, i + 1};
  return {i, rows.group_first[i], rows.group_first[i + 1]};
}

}  // namespace
}  // namespace mn::MN_ISA
