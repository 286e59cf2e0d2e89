// Attention on a GPU: what a call hands to its kernels. Every pointer is device memory; lengths and
// edges are read by the kernels, so that a launch waits for nothing.
//
// Positions are relative to the first new key of a sequence: committed keys stand at [-length, 0),
// new ones at [0, keys). Query i of a sequence stands at keys - tokens + i, a tree node at its
// depth.
#pragma once

#include <cstdint>

#include "attention/plan_sm80.h"

namespace mn {

// Integers of 4 or 8 bytes.
struct DeviceIntegers {
  const void* data = nullptr;  // null: there are none
  bool wide = false;
};

// Token t of sequence s, head h starts at data + s * row_stride + t * token_stride + h *
// head_stride; of packed tokens, t counts from the first of all.
struct SequenceTensor {
  const void* data;
  int64_t row_stride, token_stride, head_stride;
};

struct AttentionSm80Problem {
  SequenceTensor q, k, v;
  void* out;   // dense [tokens][q_heads][dim_v]
  float* lse;  // null, or a token's at sequence * lse_row_stride + head * lse_head_stride + token
  int64_t lse_row_stride, lse_head_stride;
  int sequences;
  // Packed: the sequences' first tokens [sequences + 1]. Else every sequence has q_tokens and
  // k_tokens, of which key_lengths [sequences], if there are any, say how many count.
  DeviceIntegers q_edges, k_edges, key_lengths;
  int q_tokens, k_tokens;
  int total_q, total_k;  // in all; edges beyond them are cut
  int q_heads, kv_heads, dim_qk, dim_v;
  int window;  // keys that a query sees at most, itself included
  bool causal;
  float scale_log2;  // scale * log2(e)
  const void* sink;  // [q_heads] or null
  bool sink_is_bf16;
  // Committed keys [sequences][kv_heads][capacity][dim_qk] and values [..][dim_v]; position p is
  // stored at p % capacity. Null: none.
  const void* cache_keys;
  const void* cache_values;
  const int64_t* lengths;  // [sequences]
  int capacity;
  const int64_t* ancestors;  // [tokens] masks of draft trees, or null
  // With more than one split: [splits][tokens][q_heads][dim_v], and the logarithm of 2 of the
  // largest weight and the sum of weights [splits][tokens][q_heads][2].
  float* partial;
  float* partial_stats;
};

// All sizes in bytes, multiples of 16.
struct CommitTensor {
  const void* fresh;  // token t, head h at t * token_stride + h * head_stride
  int64_t token_stride, head_stride;
  void* stored;  // [rows][kv_heads][capacity][row_bytes]
  int64_t row_bytes;
};

struct CommitSm80Layer {
  CommitTensor keys, values;
  int64_t kv_heads, capacity;
};

inline constexpr int kCommitColumns = 4, kCommitLayers = 32;  // at most, in a launch

struct CommitSm80Problem {
  // [accepted][4]: token, row of the cache, position, and the row's length afterwards.
  const int64_t* table;
  int64_t accepted;
  int layers;
  CommitSm80Layer layer[kCommitLayers];
};

}  // namespace mn
