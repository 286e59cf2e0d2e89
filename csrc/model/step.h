// One pass of a decoder over packed tokens in one call: the kernels of the layers' ops, in the
// order and with the bits of the nn modules.
#pragma once

#include "model/decoder.h"
#include "runtime/check.h"

namespace mn {

// Shapes as in MiMoForCausalLM.forward and mtp: B sequences of T tokens, or with cu_seqlens one row
// of packed ones; N = B * T.
struct StepTokens {
  Tensor ids;                    // [B, T]
  std::optional<Tensor> hidden;  // [B, T, D]: the main model's, for an MTP block
  std::optional<Tensor> cu_seqlens;
  std::optional<Tensor> ancestors;  // int64 [B, T], of a draft tree
};

struct StepResults {
  Tensor x;                       // [B, T, D] hidden states before the final norm (MTP: after it)
  Tensor staged;                  // [N * staged_per_token]: per layer k [N, ..], then v [N, ..]
  std::optional<Tensor> routing;  // uint8 or int16 [moe layers, B, T, K]
  std::optional<Tensor> logits;   // float32 [.., V]: of every token, or of each sequence's last
};

// Reads the caches and writes the results only. Where the decoder has no embedding, x holds the
// embedded tokens. `last`: which tokens' logits.
void run_step(const Check& check, const Decoder& decoder, const CacheLayers& caches,
              const StepTokens& tokens, const StepResults& results, bool last);

// Position of every token: after its row's committed ones, a tree's node as deep as it has
// ancestors in `masks`; without any, one after the other.
std::vector<int64_t> token_positions(const Tensor& lengths, const std::vector<int64_t>& edges,
                                     const std::vector<int64_t>& masks);
// Valid while `edges` is.
Tensor edges_view(const std::vector<int64_t>& edges);

// Appends the step that `staged` holds; see ModelCache.commit.
void commit_staged(const Check& check, const CacheLayers& caches, const Tensor& staged,
                   const Tensor& cu_seqlens, const std::optional<Tensor>& rows,
                   const std::optional<Tensor>& ancestors);
// The same of all tokens of a pass.
void commit_all(const Check& check, const CacheLayers& caches, const StepTokens& tokens,
                const Tensor& staged);

}  // namespace mn
