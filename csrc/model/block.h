// One MTP block over rows of which most only leave keys and values.
#pragma once

#include "model/decoder.h"
#include "runtime/check.h"

namespace mn {

struct BlockRows {
  std::vector<int64_t> ids;    // [N]
  std::vector<int64_t> masks;  // [N] ancestors of a draft tree; empty: each sequence is a chain
  std::vector<int64_t> edges;  // [rows of the cache + 1]
  std::vector<int64_t> ends;   // ascending: the rows whose logits are wanted

  int64_t count() const { return static_cast<int64_t>(ids.size()); }
};

// hidden [N, D]. Writes x [N, D], of which nothing is wanted; staged; logits float32 [ends, V].
// Each row has the bits of MiMoForCausalLM.mtp.
void run_block(const Decoder& block, const CacheLayers& caches, BlockRows& rows, const void* hidden,
               void* x, char* staged, float* logits);

}  // namespace mn
