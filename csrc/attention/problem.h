// Attention: what a call hands to the kernels. Plain data, no ownership.
//
// A row is one (token, query head). With scale-folded scores a_j = scale * q . k_j over the keys at
// positions [lo, hi) that the row sees:
//
//   per block of 64 keys, in order   m' = max(m, max_j a_j)   p_j = exp(a_j - m')
//                                    l = l * exp(m - m') + sum_j p_j
//                                    O = O * exp(m - m') + sum_j p_j v_j
//
// starting afresh every 2048 positions; the runs are merged in ascending order, and the sink enters
// at the end. Prefill, chunks, batches, decode steps and tree nodes all go through the same tile of
// rows, so a row's bits depend on nothing but its query and the keys it sees.
#pragma once

#include <cstdint>

#include "attention/layout.h"
#include "runtime/isa.h"

namespace mn {

// Keys and values of one sequence for kv head 0: packed blocks [kv heads][blocks], then, from group
// `tail_group` on, the tail's [tails][kv heads][tail_blocks], whose first block is the one that
// contains that group.
struct KvSource {
  void* keys;
  void* values;
  int64_t head_blocks;  // blocks from one kv head to the next
  int64_t ring_blocks;  // block b is stored at b % ring_blocks; 0: at b
  void* tail_keys;
  void* tail_values;
  int64_t tail_blocks;
  int64_t tail_group;  // the first group that is in the tail; a plain prefill has no tail
};

struct AttentionSequence {
  const void* q;  // first token, head 0
  void* out;      // first token, head 0; dense [tokens][q heads][dim_v]
  float* lse;     // first token, head 0; may be null
  int64_t tokens;
  int64_t first_position;  // of the first token; negative: that token sees nothing
  int64_t keys;            // positions [0, keys) exist
  // Of a draft tree, else null. Token i of the computation is token order[i] of the call, stands at
  // position[i] and reads tail tail_of[i]; tokens with the same tail are neighbours.
  const int32_t* order;
  const int64_t* position;
  const int32_t* tail_of;
  KvSource kv;
  // Its tasks in the pack problem, when the sequence's only job of a kv head does the packing.
  int64_t first_task, task_count;
};

// Tokens [0, tokens) of k and v go to positions [first_position, first_position + tokens).
struct KvPackTask {
  const void* k;
  const void* v;
  const int64_t* index;  // token i is row index[i] of k and v; null: row i
  int64_t tokens;
  int64_t first_position;
  void* keys;  // destination [kv heads][head_blocks]
  void* values;
  int64_t head_blocks;
  int64_t ring_blocks;  // 0: linear
  int64_t first_block;  // the absolute block that is stored first
  // The first group's committed keys are copied from here (its block, kv head 0); null: they are in
  // place already or there are none.
  void* committed_keys;
  void* committed_values;
  int64_t committed_head_blocks;
};

struct KvPackProblem {
  KvLayout layout;
  int64_t kv_heads;
  int64_t k_token_stride, k_head_stride, v_token_stride, v_head_stride;
  const KvPackTask* tasks;
  int64_t task_count;
  int64_t max_blocks;  // of any task
};

// A tile of rows of one kv head: the group's query heads of `tokens` consecutive tokens.
struct AttentionJob {
  int32_t sequence, kv_head;
  int32_t first_token, tokens;
  int32_t segment;   // only this run of keys, whose result is partial; -1: all, to the end
  int32_t segments;  // of a merge: how many partial results follow one another
  int64_t partial;   // row of the first partial result
};

struct AttentionProblem {
  KvLayout layout;
  int64_t q_heads, kv_heads;
  int64_t q_token_stride, q_head_stride;
  int64_t lse_head_stride;
  int64_t window;  // keys a row sees at most, itself included; INT64_MAX: all
  bool causal;
  float scale;
  const float* sink;  // [q_heads] or null
  const AttentionSequence* sequences;
  const AttentionJob* jobs;
  int64_t job_count;
  const AttentionJob* merges;
  int64_t merge_count;
  int64_t tile_rows;          // most rows of a job
  float* partial;             // [rows][padded_v + 16]: O, then m and l
  const KvPackProblem* pack;  // run first; null when everything is packed already
  bool pack_in_job;           // instead, by the jobs: one per sequence and kv head
  char* scratch;              // [threads][scratch_bytes]
  int64_t scratch_bytes;
};

// Of one storage format.
struct AttentionKernels {
  void (*attend)(const AttentionProblem&);
  // Of several layers at once; their tasks write different groups or different lanes.
  void (*pack)(const KvPackProblem*, int64_t count);
  // What a thread needs of AttentionProblem::scratch.
  int64_t (*scratch_bytes)(const KvLayout&, int64_t tile_rows);
};

struct AttentionTable {
  AttentionKernels formats[kKvFormats];

  const AttentionKernels& operator[](KvFormat format) const {
    return formats[static_cast<int>(format)];
  }
};

MN_DECLARE_KERNELS(AttentionTable, attention_kernels)

}  // namespace mn
