#include "model/step.h"

#include <algorithm>
#include <bit>

#include "attention/call.h"
#include "model/pass.h"

namespace mn {
namespace {

// Bounds of the sequences in the packed tokens.
std::vector<int64_t> step_edges(const Check& check, const StepTokens& tokens, int64_t rows) {
  const int64_t batch = tokens.ids.shape[0], length = tokens.ids.shape[1];
  std::vector<int64_t> edges;
  if (tokens.cu_seqlens) {
    if (batch != 1)
      check.fail("cu_seqlens", "packed tokens [1, T] beside it", tokens.ids.describe());
    edges = read_edges(check, *tokens.cu_seqlens, "cu_seqlens", length);
  } else {
    for (int64_t b = 0; b <= batch; ++b) edges.push_back(b * length);
  }
  if (static_cast<int64_t>(edges.size()) != rows + 1)
    check.fail("cache", std::to_string(edges.size() - 1) + " rows, one per sequence of input_ids",
               std::to_string(rows) + " rows");
  return edges;
}

void narrow(const int32_t* ids, int64_t count, const Tensor& out, int64_t at) {
  for (int64_t i = 0; i < count; ++i)
    if (out.dtype == DType::u8)
      out.as<uint8_t>()[at + i] = static_cast<uint8_t>(ids[i]);
    else
      out.as<int16_t>()[at + i] = static_cast<int16_t>(ids[i]);
}

// Of a draft tree only one path is committed, so its size does not matter.
void check_room(const CacheLayers& caches, const std::vector<int64_t>& edges) {
  for (size_t row = 0; row + 1 < edges.size(); ++row) {
    const int64_t after = caches.lengths.as<int64_t>()[row] + edges[row + 1] - edges[row];
    if (after > caches.max_tokens)
      Check("cache").fail("tokens",
                          "at most " + std::to_string(caches.max_tokens) +
                              " tokens in a row, the cache's max_tokens",
                          std::to_string(after) + " tokens in row " + std::to_string(row),
                          "Make the cache with a larger max_tokens, or truncate the row.");
  }
}

}  // namespace

Tensor edges_view(const std::vector<int64_t>& edges) {
  return dense(const_cast<int64_t*>(edges.data()), DType::i64,
               {static_cast<int64_t>(edges.size())});
}

std::vector<int64_t> token_positions(const Tensor& lengths, const std::vector<int64_t>& edges,
                                     const std::vector<int64_t>& masks) {
  std::vector<int64_t> positions(static_cast<size_t>(edges.back()));
  for (size_t row = 0; row + 1 < edges.size(); ++row)
    for (int64_t i = edges[row]; i < edges[row + 1]; ++i) {
      const size_t token = static_cast<size_t>(i);
      const int64_t depth =
          masks.empty() ? i - edges[row] : std::popcount(static_cast<uint64_t>(masks[token])) - 1;
      positions[token] = lengths.as<int64_t>()[row] + depth;
    }
  return positions;
}

int64_t CacheLayers::staged_per_token() const {
  int64_t count = 0;
  for (const CommitLayer& layer : layers)
    count += layer.keys.shape[1] * (layer.head_dim + layer.v_head_dim);
  return count;
}

void run_step(const Check& check, const Decoder& d, const CacheLayers& caches,
              const StepTokens& tokens, const StepResults& results, bool last) {
  const std::vector<int64_t> ids =
      read_ids(check, tokens.ids, d.join ? "next_ids" : "input_ids", d.head.layout.outputs);
  const int64_t n = tokens.ids.numel();
  const std::vector<int64_t> edges = step_edges(check, tokens, caches.lengths.numel());
  PassTokens pass_tokens{.count = n,
                         .x = results.x.data,
                         .cu_seqlens = edges_view(edges),
                         .ancestors = std::nullopt,
                         .positions = {}};
  std::vector<int64_t> masks;
  if (tokens.ancestors) {
    check.shape(*tokens.ancestors, "ancestors", {tokens.ids.shape[0], tokens.ids.shape[1]},
                "the shape of input_ids, [B, T]");
    check.contiguous(*tokens.ancestors, "ancestors");
    check.dtype(*tokens.ancestors, "ancestors", {DType::i64});
    pass_tokens.ancestors = dense(tokens.ancestors->data, DType::i64, {n});
    masks = read_integers(check, *pass_tokens.ancestors, "ancestors", n, "[N]");
  } else if (!d.join) {
    check_room(caches, edges);
  }
  pass_tokens.positions = token_positions(caches.lengths, edges, masks);

  std::vector<int64_t> last_rows;
  for (size_t row = 0; last && row + 1 < edges.size(); ++row)
    last_rows.push_back(edges[row + 1] > 0 ? edges[row + 1] - 1 : n - 1);
  Pass pass(d, std::move(pass_tokens), static_cast<int64_t>(last_rows.size()));
  if (d.embedding) embed(*d.embedding, ids, results.x.data);
  if (d.join) pass.join(*d.join, tokens.hidden->data);
  char* staged = results.staged.as<char>();
  int64_t routed = 0;
  for (size_t i = 0; i < d.layers.size(); ++i) {
    const DecoderLayer& layer = d.layers[i];
    const AttentionWeights& a = layer.attention;
    const int32_t* chosen = pass.layer(layer, caches.layers[i], caches.lengths, staged);
    staged += n * a.kv_heads * (a.head_dim + a.v_head_dim) * size_of(results.x.dtype);
    if (!chosen || !results.routing) continue;
    const int64_t count = n * layer.router->top_k;
    narrow(chosen, count, *results.routing, routed);
    routed += count;
  }
  if (d.join) pass.final_norm();
  if (results.logits) pass.logits(d.head, last ? &last_rows : nullptr, results.logits->data);
}

void commit_staged(const Check& check, const CacheLayers& caches, const Tensor& staged,
                   const Tensor& cu_seqlens, const std::optional<Tensor>& rows,
                   const std::optional<Tensor>& ancestors) {
  const int64_t n = staged.numel() / std::max<int64_t>(caches.staged_per_token(), 1);
  std::vector<CommitLayer> layers = caches.layers;
  char* at = staged.as<char>();
  for (CommitLayer& layer : layers) {
    const int64_t heads = layer.keys.shape[1];
    layer.k_new = dense(at, staged.dtype, {n, heads, layer.head_dim});
    at += layer.k_new.numel() * size_of(staged.dtype);
    layer.v_new = dense(at, staged.dtype, {n, heads, layer.v_head_dim});
    at += layer.v_new.numel() * size_of(staged.dtype);
  }
  commit(check, layers, {caches.lengths, cu_seqlens, rows, ancestors, caches.max_tokens});
}

void commit_all(const Check& check, const CacheLayers& caches, const StepTokens& tokens,
                const Tensor& staged) {
  const std::vector<int64_t> edges = step_edges(check, tokens, caches.lengths.numel());
  commit_staged(check, caches, staged, edges_view(edges), std::nullopt, std::nullopt);
}

}  // namespace mn
