#include "model/block.h"

#include "model/pass.h"
#include "model/step.h"

namespace mn {

void run_block(const Decoder& block, const CacheLayers& caches, BlockRows& rows, const void* hidden,
               void* x, char* staged, float* logits) {
  const int64_t count = rows.count();
  PassTokens tokens{.count = count,
                    .x = x,
                    .cu_seqlens = edges_view(rows.edges),
                    .ancestors = std::nullopt,
                    .positions = token_positions(caches.lengths, rows.edges, rows.masks)};
  if (!rows.masks.empty()) tokens.ancestors = dense(rows.masks.data(), DType::i64, {count});
  Pass pass(block, std::move(tokens), static_cast<int64_t>(rows.ends.size()));
  embed(*block.embedding, rows.ids, x);
  pass.join(*block.join, hidden);
  const DecoderLayer& layer = block.layers.front();
  if (rows.ends.empty()) {
    pass.keys_values(layer, staged);
    return;
  }
  pass.layer(layer, caches.layers.front(), caches.lengths, staged, &rows.ends);
  pass.final_norm();
  pass.logits(block.draft_head, nullptr, logits);
}

}  // namespace mn
