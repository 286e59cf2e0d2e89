// Matrix products y = x W^T with packed or plain weights: what a call hands to the kernels.
#pragma once

#include "gemm/packed.h"
#include "runtime/isa.h"

namespace mn {

// Row i of a matrix starts at data + (index ? index[i] : i) * stride elements.
struct RowSource {
  const void* data;
  int64_t stride;
  const int32_t* index;
  bool bf16;
};

// Consecutive rows that share a weight. They are packed in tiles of `height` rows, the last one
// lower, at value offset first_row * steps * depth of the packed rows.
struct RowBlock {
  int32_t group;
  int32_t rows, height;
  int64_t first_row;
};

struct Rows {
  const RowBlock* blocks;
  int64_t count;
  const int32_t* group_first;  // [groups + 1]: first block of each group
  int64_t groups;
  int64_t most_tiles;  // of one block
};

// The weights of every group: packed, or a plain matrix that is packed as it is read. `layout` is
// that of the product: a transposed matrix [inputs, outputs] serves the gradient of the rows.
struct Weights {
  PackedLayout layout;
  const void* data;
  bool packed;
  bool transposed;
  int64_t expert_stride, row_stride;  // elements, of a plain matrix
};

// A plain matrix for the product with its transpose.
inline Weights transposed(const Weights& w) {
  Weights t = w;
  t.transposed = true;
  t.layout.outputs = w.layout.inputs;
  t.layout.inputs = w.layout.outputs;
  t.layout.expert_panels = t.layout.panels();
  return t;
}

struct GemmProblem {
  RowSource x;
  Rows rows;
  Weights w;
  void* y;
  int64_t y_stride;
  bool y_bf16;
  void* packed_rows;  // scratch for the rows; null where one dense row needs no packing
  int64_t panels_per_job;
  int threads;
  char* thread_scratch;
  int64_t thread_scratch_bytes;  // of each thread
};

// dw[g] = rows of dy of group g, transposed, times its rows of x: [outputs, inputs], zero for an
// empty group. The sum over rows runs in their order.
struct WeightGradProblem {
  RowSource dy, x;             // in the same dtype
  const int64_t* group_first;  // [groups + 1] rows
  int64_t groups;
  int64_t outputs, inputs;  // columns of dy and of x
  void* dw;                 // [groups, outputs, inputs], dense
  bool dw_bf16;
  const RowBlock* blocks;  // of the outputs
  int64_t block_count;
  char* packed_x;  // scratch: x of group g at group_first[g] * panels of inputs
  int threads;
  char* thread_scratch;
  int64_t thread_scratch_bytes;
};

struct PackProblem {
  PackedLayout layout;
  char* packed;
  void* weight;
  int64_t expert_stride, row_stride;  // elements
};

// Kernels of a product by weights and rows: the two plain formats, then all coded ones with bf16,
// with float32 or with quantised rows.
inline constexpr int kKinds = kPlainFormats + 3;
static inline int kind_of(const PackedLayout& l, bool bf16_rows) {
  if (quantises_rows(l.format)) return kPlainFormats + 2;
  return l.coded() ? kPlainFormats + (bf16_rows ? 0 : 1) : static_cast<int>(l.format);
}

struct GemmKernels {
  int tile_rows[kKinds];    // the most rows of a register tile
  int value_bytes[kKinds];  // of a packed row
  int scale_words[kKinds];  // of a granule of quantised rows
  void (*pack[kPlainFormats])(const PackProblem&);
  void (*unpack[kPlainFormats])(const PackProblem&);
  void (*multiply[kKinds])(const GemmProblem&);
  void (*weight_grad[kPlainFormats])(const WeightGradProblem&);
};

MN_DECLARE_KERNELS(GemmKernels, gemm_kernels)

// Words of a packed row for codes: of `depth` inputs each, and for each granule one with its sum
// where the format has mins, or those of its scale where rows are quantised.
static inline int64_t coded_words(const PackedLayout& l, int64_t depth, int64_t scale_words) {
  const int64_t granules = (l.inputs + kGranule - 1) / kGranule;
  return granules * (kGranule / depth + coding_of(l.format).has_min + scale_words);
}

// Bytes of a packed row.
static inline int64_t row_bytes(const PackedLayout& l, int kind) {
  if (!l.coded()) return l.steps() * 4;
  const GemmKernels& kernels = gemm_kernels_for_isa();
  return coded_words(l, 4 / kernels.value_bytes[kind], kernels.scale_words[kind]) * 4;
}

// Bytes of a thread's scratch for multiply: the sums of a block of `rows` rows over four panels, or
// of the rows of a register tile over 32, and four plain panels packed.
inline int64_t gemm_thread_scratch(const PackedLayout& layout, int64_t rows, bool packed) {
  const int64_t sums = rows > 16 * 8 ? rows * 4 : 16 * 32;
  return sums * kPanel * 4 + (packed ? 0 : 4 * layout.panel_bytes());
}

}  // namespace mn
