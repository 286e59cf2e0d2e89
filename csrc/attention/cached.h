// Attention over a layer's cache: what the binding and the model's native step call.
#pragma once

#include "attention/call.h"

namespace mn {

// A layer's committed keys and values as a cache stores them.
struct CacheTensors {
  const Tensor &keys, &values;
  int64_t head_dim, v_head_dim;
  const Tensor& lengths;  // [B] committed tokens of each row
  bool ring;
};

// How the new tokens are laid out; see ops.attention_cached.
struct CachedTokens {
  const std::optional<Tensor>&cu_seqlens_q, &q_positions, &ancestors;
};

// New tokens against the committed keys of their row and one another. Writes t.out and t.lse only.
void attention_cached(const Check& check, const AttentionTensors& t, const CacheTensors& cache,
                      const CachedTokens& tokens_of, const AttentionOptions& options);

}  // namespace mn
