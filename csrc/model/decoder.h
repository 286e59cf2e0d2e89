// A decoder as the native step reads it: views of its weights and of its caches. Whoever makes one
// keeps the tensors alive.
#pragma once

#include <optional>
#include <vector>

#include "attention/commit.h"
#include "gemm/problem.h"
#include "model/embedding.h"
#include "routing/problem.h"
#include "runtime/tensor.h"

namespace mn {

struct Norm {
  const void* weight;  // [D]
  bool bf16;
  float eps;
};

struct AttentionWeights {
  Weights qkv;  // rows of all q heads, then k, then v
  Weights o;
  int64_t q_heads, kv_heads, head_dim, v_head_dim;
  double theta;
  int64_t rotary_dim;
  float value_scale;
  std::optional<int64_t> window_keys;
  std::optional<Tensor> sink;  // [q_heads]
};

struct Router {
  Weights proj;
  const float* bias;  // [E]
  int64_t top_k, groups, open_groups;
  RouteRule rule;
};

struct DecoderLayer {
  Norm before_attention, before_mlp;
  AttentionWeights attention;
  Weights gate_up, down;         // of all experts, or of the dense feed-forward
  std::optional<Router> router;  // none: dense
};

// How an MTP block joins the next token's embedding with the main model's hidden state.
struct Join {
  Norm embedded, hidden;
  Weights weight;  // [D, 2 D], the embedding's columns first
};

// The main model's layers, or an MTP block's single one.
struct Decoder {
  bool bf16;  // activations; else float32
  int64_t hidden_size;
  std::optional<Embedding> embedding;  // none: the caller embeds
  std::optional<Join> join;            // of an MTP block
  std::vector<DecoderLayer> layers;
  Norm norm;
  Weights head;
  Weights draft_head;  // the first rows of the head: the tokens that drafts are chosen from
};

// The caches of a decoder's layers, which have common lengths. A layer's k_new and v_new are empty.
struct CacheLayers {
  std::vector<CommitLayer> layers;
  Tensor lengths;  // int64 [B]
  int64_t max_tokens;

  // Elements of one token's new keys and values in all layers.
  int64_t staged_per_token() const;
};

}  // namespace mn
