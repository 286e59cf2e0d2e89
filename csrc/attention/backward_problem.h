// Gradients of attention: what a call hands to the kernels. Plain data, no ownership.
//
// With P_ij = exp(scale * q_i . k_j - lse_i) over the keys that row i sees, and
//
//   delta_i = dO_i . O_i - dlse_i          dS_ij = P_ij (dO_i . v_j - delta_i)
//
// the gradients are
//
//   dV_j = sum_i P_ij dO_i                 dK_j = scale * sum_i dS_ij q_i
//   dQ_i = scale * sum_j dS_ij k_j         dsink_h = -sum_i exp(sink_h - lse_i) delta_i
//
// where i runs over all rows (token, query head) of the kv head that j belongs to. lse includes the
// sink. P and dS are computed once, tile by tile, and serve all the sums; none is ever stored
// whole.
#pragma once

#include <cstdint>

#include "runtime/isa.h"

namespace mn {

struct BackwardSequence {
  const void *q, *k, *v;  // first token, head 0
  const void *out, *dout;
  const float *lse, *dlse;  // [q heads][tokens], lse_head_stride apart; dlse may be null
  void *dq, *dk, *dv;       // dense [tokens or key_rows][heads][dim]
  int64_t tokens;
  int64_t first_position;            // of the first token; negative: that token sees nothing
  int64_t keys;                      // positions [0, keys) exist ...
  int64_t key_rows;                  // ... of so many; the gradients of the others are zero
  int64_t first_block;               // of packed keys and values, kv head 0
  int64_t first_job, jobs_per_head;  // a kv head's jobs are neighbours
};

// A run of tokens of one kv head: the only writer of their dq, and of a partial dk and dv over the
// keys [key_lo, key_hi) that they see.
struct BackwardJob {
  int32_t sequence, kv_head;
  int64_t first_token, tokens;
  int64_t key_lo, key_hi;
  int64_t partial;  // floats before its partial sums: dk [keys][padded_qk], dv [keys][padded_v]
};

struct BackwardProblem {
  int64_t q_heads, kv_heads;
  int64_t dim_qk, dim_v;        // as the caller sees them
  int64_t padded_qk, padded_v;  // multiples of 16
  int64_t q_token_stride, q_head_stride, k_token_stride, k_head_stride;
  int64_t v_token_stride, v_head_stride, dout_token_stride, dout_head_stride;
  int64_t lse_head_stride;
  int64_t window;  // keys a row sees at most, itself included; INT64_MAX: all
  bool causal;
  float scale;
  const float* sink;  // [q_heads] or null
  float* dsink;       // [q_heads] or null
  const BackwardSequence* sequences;
  int64_t sequence_count;
  int64_t max_key_rows;  // of any sequence
  const BackwardJob* jobs;
  int64_t job_count;
  int64_t tile_rows;  // of a tile, a multiple of kPanelRows
  void* key_rows;     // [blocks][64][padded_qk]
  void* key_pairs;    // bf16: [blocks][32][padded_qk][2]; float32: the same as key_rows
  void* value_rows;   // [blocks][64][padded_v]
  float* partial;
  double* sink_partial;  // [jobs][q heads of a kv head]
  char* scratch;         // [threads][scratch_bytes]
  int64_t scratch_bytes;
};

// Rows that share a panel: four vectors.
inline constexpr int64_t kPanelRows = 64;
// No key is seen by more jobs of its kv head: the partial sums stay proportional to the tokens.
inline constexpr int64_t kMostPartials = 8;

// The keys [lo, hi) that a token sees; empty ones are [0, 0).
struct KeyRange {
  int64_t lo, hi;
};

inline KeyRange visible_keys(int64_t position, int64_t keys, bool causal, int64_t window) {
  KeyRange range{0, keys};
  if (causal && position + 1 < range.hi) range.hi = position + 1;
  if (window <= position) range.lo = position - window + 1;
  if (range.hi <= range.lo) range.hi = range.lo = 0;
  return range;
}

struct AttentionBackwardKernels {
  void (*run_f32)(const BackwardProblem&);
  void (*run_bf16)(const BackwardProblem&);
  // What a thread needs of BackwardProblem::scratch.
  int64_t (*scratch_bytes_f32)(const BackwardProblem&);
  int64_t (*scratch_bytes_bf16)(const BackwardProblem&);
};

MN_DECLARE_KERNELS(AttentionBackwardKernels, attention_backward_kernels)

}  // namespace mn
