// Committing a step: the only writer of the caches. One call takes all layers, checks everything,
// then writes, then moves the lengths.
#pragma once

#include <optional>
#include <vector>

#include "runtime/check.h"

namespace mn {

// A layer's storage and its new keys and values.
struct CommitLayer {
  Tensor keys, values;
  int64_t head_dim, v_head_dim;
  std::optional<Tensor> held_from;  // the first positions a ring still holds; none: a global layer
  Tensor k_new, v_new;              // [N, Hkv, D]
};

// The step's tokens that enter the layers; see LayerCache.commit.
struct CommitStep {
  const Tensor& lengths;  // [B], moved at the end
  const Tensor& cu_seqlens;
  const std::optional<Tensor>&rows, &ancestors;
  std::optional<int64_t> max_tokens;
};

void commit(const Check& check, const std::vector<CommitLayer>& layers, const CommitStep& step);

}  // namespace mn
