// Losses over the vocabulary, from hidden states and the head: what a call hands to the kernels.
// Logits live for a chunk of the vocabulary at a time.
#pragma once

#include "gemm/problem.h"
#include "simd/softmax_chunk.h"

namespace mn {

inline constexpr int64_t kLossGroup = 4 * kPanel;  // ids, or columns of dx, of one backward job

// Logits = rows W^T. `packed_rows` is scratch that the kernel fills first; no data: no such head.
struct Head {
  RowSource x;
  Rows rows;
  Weights w;
  void* packed_rows;

  bool given() const { return packed_rows != nullptr; }
};

// One chunk of one row: its largest logit m, the sum of w = exp((x - m) / T), and of w times
// (x - m) for the entropy or (x - teacher's x) for the divergence.
struct ChunkStat {
  float largest;
  double sum, dot;
};

// A row over the whole vocabulary: p_v = exp((x_v - top) / T) / total.
struct RowStat {
  double top, total;
};

struct LossForward {
  Head head, teacher;
  int64_t count;  // rows
  float temperature;
  const int64_t* ids;  // [count, ids_per_row]; a negative one is none
  int64_t ids_per_row;
  float* id_logits;  // scratch [count, ids_per_row]
  ChunkStat* stats;  // scratch [chunks, count]
  ChunkStat* teacher_stats;
  RowStat* row_stats;  // [count]
  RowStat* teacher_row_stats;
  float* logprobs;    // [count, ids_per_row], 0 for no id
  float* entropy;     // [count], or null
  float* divergence;  // [count] KL(student || teacher), with a teacher
  void* kept;         // see kept_rows; null: nothing is kept
  int64_t kept_rows;
  float* chunk_largest;  // [chunks, count] of the rows whose weights are kept, or null
  int threads;
  char* thread_scratch;
  int64_t thread_scratch_bytes;
};

// The weights exp((x - m) / T) of the first rows can be kept for the backward without any memory of
// their own: in dw, which is written last. Chunk c has the room of its rows of dw, and dw has at
// least as many columns as rows are kept: [rows][ids of the chunk] in the head's dtype.
inline int64_t kept_rows(int64_t rows, int64_t inputs) { return rows < inputs ? rows : inputs; }

// What fixes the gradient of a row's logits:
//   d_v = scale (p_v (a + b u_v) + sum of id_grads of the ids equal to v)
//   u_v = (x_v - top) scale, less (x'_v - top') scale with a teacher; scale = 1 / T
struct RowGradient {
  float top, inverse_total, a, b;
};

struct LossBackward {
  Head head, teacher;
  int64_t count;
  float scale;
  const RowGradient* rows;
  const float* teacher_top;  // [count]
  const int64_t* ids;        // [count, ids_per_row]
  int64_t ids_per_row;
  const float* id_grads;
  int64_t slice;            // ids whose logit gradients live at a time
  void* d;                  // scratch [count, slice] in the head's dtype
  void* packed_d;           // scratch: d in tiles; null where dx is not asked for
  void* packed_x;           // scratch: x in panels for dw; null where dw is not asked for
  void* unpacked;           // scratch [slice, inputs] where the head is packed and dx asked for
  int64_t most_block_rows;  // of the head's blocks
  const RowBlock* slice_blocks;  // rows of dw of a whole slice
  int64_t slice_block_count;
  float* dx;          // [count, inputs], or null
  void* dx_bf16;      // its place once rounded, or null
  void* dw;           // [vocabulary, inputs] in the head's dtype, or null
  int64_t kept_rows;  // rows whose weights lie in dw; the logits of the others are formed again
  const float* chunk_largest;
  int threads;
  char* thread_scratch;
  int64_t thread_scratch_bytes;
};

struct LossKernels {
  void (*forward)(const LossForward&);
};

struct LossBackwardKernels {
  void (*backward[kPlainFormats])(const LossBackward&);
};

MN_DECLARE_KERNELS(LossKernels, loss_kernels)
MN_DECLARE_KERNELS(LossBackwardKernels, loss_backward_kernels)

}  // namespace mn
