#include "attention/cached.h"

#include "attention/tree.h"

namespace mn {
namespace {

// The committed keys and values of a layer: packed storage and, for a sliding layer, its ring.
struct Committed {
  const Tensor &keys, &values;
  std::vector<int64_t> lengths;
  int64_t blocks;
  bool ring;
};

// Activations are float32 for a float32 cache, else bf16.
void check_format(const Check& check, const Tensor& keys, const char* argument, const Tensor& q) {
  check.dtype(keys, argument, {DType::f32, DType::bf16, DType::i8, DType::e4m3});
  if ((keys.dtype == DType::f32) != (q.dtype == DType::f32))
    check.fail(argument, q.dtype == DType::f32 ? "a float32 cache, as q" : "no float32 cache, as q",
               keys.describe(), "Make the cache for the model's dtype.");
}

Committed committed(const Check& check, const AttentionCall& call, const CacheTensors& cache,
                    const Tensor& q) {
  const AttentionProblem& p = call.problem;
  const auto& [keys, values, head_dim, v_head_dim, lengths, ring] = cache;
  Committed c{keys, values, read_integers(check, lengths, "layer_cache.lengths", kAny, "[B]"), 0,
              ring};
  const int64_t rows = static_cast<int64_t>(c.lengths.size());
  check.shape(keys, "layer_cache.keys", {rows, p.kv_heads, kAny, p.layout.key_block},
              "[B, Hkv, blocks, 64 * Dqk]");
  check_format(check, keys, "layer_cache.keys", q);
  check.contiguous(keys, "layer_cache.keys");
  c.blocks = keys.shape[2];
  check.shape(values, "layer_cache.values", {rows, p.kv_heads, c.blocks, p.layout.value_block},
              "[B, Hkv, blocks, 64 * Dv]");
  check.same_dtype(values, "layer_cache.values", keys, "layer_cache.keys");
  check.contiguous(values, "layer_cache.values");
  if (ring && (p.window == INT64_MAX || p.window - 1 > c.blocks * kBlockKeys))
    check.fail("window_keys",
               "at most " + std::to_string(c.blocks * kBlockKeys + 1) + ", which the ring holds",
               p.window == INT64_MAX ? "None" : std::to_string(p.window));
  for (const int64_t length : c.lengths)
    check.range(length, "layer_cache.lengths", 0, ring ? INT64_MAX / 2 : c.blocks * kBlockKeys);
  return c;
}

// Points a sequence at row b of the cache; its tail starts with the group that follows.
void attach(const Committed& c, const AttentionProblem& p, int64_t b, AttentionSequence& s) {
  const int64_t size = size_of(c.keys.dtype), first = b * p.kv_heads * c.blocks;
  s.kv.keys = c.keys.as<char>() + first * p.layout.key_block * size;
  s.kv.values = c.values.as<char>() + first * p.layout.value_block * size;
  s.kv.head_blocks = c.blocks;
  s.kv.ring_blocks = c.ring ? c.blocks : 0;
  s.kv.tail_group = c.lengths[static_cast<size_t>(b)] / kGroupKeys;
}

// The tail takes over the committed keys of its first group.
void inherit(const Committed& c, const AttentionProblem& p, const KvSource& kv, KvPackTask& task) {
  if (task.first_position % kGroupKeys == 0) return;
  const int64_t size = size_of(c.keys.dtype), block = task.first_position / kBlockKeys;
  const int64_t stored = c.ring ? block % c.blocks : block;
  task.committed_keys = static_cast<char*>(kv.keys) + stored * p.layout.key_block * size;
  task.committed_values = static_cast<char*>(kv.values) + stored * p.layout.value_block * size;
  task.committed_head_blocks = c.blocks;
}

// One integer per query, in packed order whatever the shape.
std::vector<int64_t> read_tokens(const Check& check, const Tensor& t, const char* argument,
                                 const Tensor& q) {
  const bool dense = q.ndim == 4;
  if (dense)
    check.shape(t, argument, {q.shape[0], q.shape[1]}, "[B, T]");
  else
    check.shape(t, argument, {q.shape[0]}, "[N]");
  check.contiguous(t, argument);
  Tensor flat = t;
  flat.ndim = 1;
  flat.shape[0] = t.numel();
  flat.stride[0] = 1;
  return read_integers(check, flat, argument, kAny, "[N]");
}

// Whether every row's tokens follow one another: a chunk, whatever it is called.
bool follow_one_another(const std::vector<int64_t>& ancestors, const std::vector<int64_t>& edges) {
  for (size_t row = 0; row + 1 < edges.size(); ++row) {
    if (edges[row + 1] - edges[row] > kMaxTreeNodes) return false;
    uint64_t all = 0;
    for (int64_t i = edges[row]; i < edges[row + 1]; ++i) {
      all = all << 1 | 1;
      if (static_cast<uint64_t>(ancestors[static_cast<size_t>(i)]) != all) return false;
    }
  }
  return true;
}

void check_positions(const Check& check, const Tensor& t, const std::vector<int64_t>& given,
                     int64_t begin, int64_t length, const std::vector<DraftTree>& trees, size_t row,
                     int64_t tokens) {
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t expected =
        length + (trees.empty() ? i : trees[row].depth[static_cast<size_t>(i)]);
    const int64_t got = given[static_cast<size_t>(begin + i)];
    if (got != expected)
      check.fail("q_positions",
                 "position " + std::to_string(expected) + " for token " + std::to_string(i) +
                     " of row " + std::to_string(row),
                 std::to_string(got) + " in " + t.describe(),
                 "Leave q_positions out: they follow from the cache and the ancestors.");
  }
}

}  // namespace

void attention_cached(const Check& check, const AttentionTensors& t, const CacheTensors& cache,
                      const CachedTokens& tokens_of, const AttentionOptions& options) {
  const Tensor &q = t.q, &k_new = t.k;
  const auto& [cu_seqlens_q, q_positions, ancestors] = tokens_of;
  check.shape(q, "q",
              cu_seqlens_q ? std::initializer_list<int64_t>{kAny, kAny, kAny}
                           : std::initializer_list<int64_t>{kAny, kAny, kAny, kAny},
              cu_seqlens_q ? "[N, Hq, Dqk] with cu_seqlens_q" : "[B, T, Hq, Dqk]");
  AttentionCall call(check, t, options, kv_format(cache.keys.dtype));
  if (call.problem.layout.dim_qk != cache.head_dim)
    check.fail("k_new", "the cache's head dim " + std::to_string(cache.head_dim), k_new.describe());
  if (call.problem.layout.dim_v != cache.v_head_dim)
    check.fail("v_new", "the cache's head dim " + std::to_string(cache.v_head_dim), t.v.describe());
  const Committed c = committed(check, call, cache, q);
  const int64_t rows = static_cast<int64_t>(c.lengths.size());
  const int64_t per_row = cu_seqlens_q ? 0 : q.shape[1];
  std::vector<int64_t> edges;
  if (cu_seqlens_q) {
    edges = read_edges(check, *cu_seqlens_q, "cu_seqlens_q", q.shape[0]);
    check.shape(*cu_seqlens_q, "cu_seqlens_q", {rows + 1}, "[rows of the cache + 1]");
  } else {
    check.shape(q, "q", {rows, kAny, kAny, kAny}, "[rows of the cache, T, Hq, Dqk]");
    for (int64_t b = 0; b <= rows; ++b) edges.push_back(b * per_row);
  }
  const int64_t new_tokens = k_new.shape[k_new.ndim - 3];
  if (new_tokens != q.shape[q.ndim - 3])
    check.fail("k_new", "as many tokens as q, " + std::to_string(q.shape[q.ndim - 3]),
               k_new.describe());
  const Tensor* integers[] = {q_positions ? &*q_positions : nullptr,
                              ancestors ? &*ancestors : nullptr};
  const char* names[] = {"q_positions", "ancestors"};
  std::vector<int64_t> read[2];
  for (int i = 0; i < 2; ++i)
    if (integers[i]) read[i] = read_tokens(check, *integers[i], names[i], q);

  std::vector<DraftTree> trees;
  const bool branched = ancestors && !follow_one_another(read[1], edges);
  if (branched)
    for (int64_t b = 0; b < rows; ++b)
      trees.push_back(draft_tree(check, read[1].data() + edges[static_cast<size_t>(b)],
                                 edges[static_cast<size_t>(b) + 1] - edges[static_cast<size_t>(b)],
                                 c.lengths[static_cast<size_t>(b)]));
  for (int64_t b = 0; b < rows; ++b) {
    const size_t row = static_cast<size_t>(b);
    const int64_t begin = edges[row], tokens = edges[row + 1] - begin, length = c.lengths[row];
    if (q_positions)
      check_positions(check, *q_positions, read[0], begin, length, trees, row, tokens);
    if (tokens == 0) continue;
    const int64_t first = cu_seqlens_q ? begin : 0;
    const int64_t depth = branched ? trees[row].deepest() : tokens;
    AttentionSequence& s = call.add_sequence(b, first, tokens, length, length + depth);
    attach(c, call.problem, b, s);
    int64_t packs = 1;
    if (branched) {
      const DraftTree& tree = trees[row];
      s.order = tree.order.data();
      s.position = tree.position.data();
      s.tail_of = tree.tail_of.data();
      packs = static_cast<int64_t>(tree.paths.size());
      for (const std::vector<int64_t>& path : tree.paths) {
        KvPackTask& task = call.add_task(b, first, static_cast<int64_t>(path.size()), length);
        task.index = path.data();
        inherit(c, call.problem, s.kv, task);
      }
    } else {
      inherit(c, call.problem, s.kv, call.add_task(b, first, tokens, length));
    }
    call.give_blocks(packs, blocks_for(length + depth) - length / kBlockKeys);
  }
  call.run();
}

}  // namespace mn
