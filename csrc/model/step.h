// One pass of a decoder over packed tokens in one call: the kernels of the layers' ops, in the
// order and with the bits of the nn modules.
#pragma once

#include "model/decoder.h"
#include "runtime/check.h"

namespace mn {

struct StepTokens {
  Tensor x;                         // [N, D]: embedded; becomes the result
  std::optional<Tensor> hidden;     // [N, D]: the main model's, for an MTP block
  Tensor cu_seqlens;                // [B + 1]
  std::optional<Tensor> ancestors;  // int64 [N], of a draft tree
};

struct StepResults {
  Tensor staged;                     // [N * staged_per_token]: per layer k [N, ..], then v [N, ..]
  std::optional<Tensor> routing;     // int32 [moe layers, N, K]
  std::optional<Tensor> logits;      // float32 [M, V]
  std::optional<Tensor> logit_rows;  // int64 [M]: their tokens; none: all
};

// x becomes the hidden states before the final norm (of an MTP block: after it). Reads the caches
// and writes the tensors of `tokens.x` and `results` only.
void run_step(const Check& check, const Decoder& decoder, const CacheLayers& caches,
              const StepTokens& tokens, const StepResults& results);

// Appends the step that `staged` holds; see ModelCache.commit.
void commit_staged(const Check& check, const CacheLayers& caches, const Tensor& staged,
                   const Tensor& cu_seqlens, const std::optional<Tensor>& rows,
                   const std::optional<Tensor>& ancestors);

}  // namespace mn
