// Checks of a call's tensors and options that need no tensor's values: shared by the CPU and the
// CUDA bindings.
#pragma once

#include <optional>

#include "runtime/check.h"

namespace mn {

// out and lse may be made after the others have been checked, before sequences are added.
struct AttentionTensors {
  const Tensor &q, &k, &v, &out;
  const std::optional<Tensor>& lse;
  const std::optional<Tensor>& sink;
  const char *k_name = "k", *v_name = "v";  // in errors
};

struct AttentionOptions {
  std::optional<double> scale;
  bool causal = true;
  std::optional<int64_t> window_keys;
};

// The tensors but for the number of keys; and the options. `check` says on which device they are.
void check_attention(const Check& check, const AttentionTensors& tensors,
                     const AttentionOptions& options);
// The scale, by default that of the head dim.
double attention_scale(const AttentionTensors& tensors, const AttentionOptions& options);

}  // namespace mn
