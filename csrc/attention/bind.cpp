#include <pybind11/stl.h>

#include "attention/call.h"
#include "attention/tree.h"
#include "runtime/module.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

using OptionalTensor = std::optional<Tensor>;

void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
               const OptionalTensor& lse, std::optional<double> scale, bool causal,
               std::optional<int64_t> window_keys, const OptionalTensor& sink,
               const OptionalTensor& kv_lens) {
  const Check check("attention");
  check.shape(q, "q", {kAny, kAny, kAny, kAny}, "[B, T, Hq, Dqk]");
  AttentionCall call(check, {q, k, v, out, lse, sink}, {scale, causal, window_keys});
  const int64_t batch = q.shape[0], tokens = q.shape[1];
  std::vector<int64_t> lens(static_cast<size_t>(batch), k.shape[1]);
  if (kv_lens) lens = read_integers(check, *kv_lens, "kv_lens", batch, "[B]");
  for (const int64_t keys : lens) check.range(keys, "kv_lens", 0, k.shape[1]);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t keys = lens[static_cast<size_t>(b)];
    call.add_sequence(b, 0, tokens, keys - tokens, keys);
    call.add_task(b, 0, keys, 0);
    call.give_blocks(1, blocks_for(keys));
  }
  call.run();
}

void attention_varlen(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                      const OptionalTensor& lse, const Tensor& cu_seqlens_q,
                      const Tensor& cu_seqlens_k, std::optional<double> scale, bool causal,
                      std::optional<int64_t> window_keys, const OptionalTensor& sink) {
  const Check check("attention_varlen");
  check.shape(q, "q", {kAny, kAny, kAny}, "[N, Hq, Dqk]");
  AttentionCall call(check, {q, k, v, out, lse, sink}, {scale, causal, window_keys});
  const std::vector<int64_t> q_edges = read_edges(check, cu_seqlens_q, "cu_seqlens_q", q.shape[0]);
  const std::vector<int64_t> k_edges = read_edges(check, cu_seqlens_k, "cu_seqlens_k", k.shape[0]);
  if (q_edges.size() != k_edges.size())
    check.fail("cu_seqlens_k", std::to_string(q_edges.size() - 1) + " documents, as cu_seqlens_q",
               std::to_string(k_edges.size() - 1) + " documents");
  for (size_t d = 0; d + 1 < q_edges.size(); ++d) {
    const int64_t tokens = q_edges[d + 1] - q_edges[d], keys = k_edges[d + 1] - k_edges[d];
    call.add_sequence(0, q_edges[d], tokens, keys - tokens, keys);
    call.add_task(0, k_edges[d], keys, 0);
    call.give_blocks(1, blocks_for(keys));
  }
  call.run();
}

// The committed keys and values of a layer: packed storage and, for a sliding layer, its ring.
struct Committed {
  const Tensor &keys, &values;
  std::vector<int64_t> lengths;
  int64_t blocks;
  bool ring;
};

Committed committed(const Check& check, const AttentionCall& call, const Tensor& keys,
                    const Tensor& values, const Tensor& lengths, bool ring, const Tensor& q) {
  const AttentionProblem& p = call.problem;
  Committed c{keys, values, read_integers(check, lengths, "layer_cache.lengths", kAny, "[B]"), 0,
              ring};
  const int64_t rows = static_cast<int64_t>(c.lengths.size());
  check.shape(keys, "layer_cache.keys", {rows, p.kv_heads, kAny, p.layout.key_block},
              "[B, Hkv, blocks, 64 * Dqk]");
  check.same_dtype(keys, "layer_cache.keys", q, "q");
  check.contiguous(keys, "layer_cache.keys");
  c.blocks = keys.shape[2];
  check.shape(values, "layer_cache.values", {rows, p.kv_heads, c.blocks, p.layout.value_block},
              "[B, Hkv, blocks, 64 * Dv]");
  check.same_dtype(values, "layer_cache.values", q, "q");
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
  const int64_t size = size_of(c.keys.dtype);
  const int64_t block = task.first_position / kBlockKeys, group = kv.tail_group % kBlockGroups;
  const int64_t stored = c.ring ? block % c.blocks : block;
  task.committed_keys = static_cast<char*>(kv.keys) +
                        (stored * p.layout.key_block + group * p.layout.key_group) * size;
  task.committed_values = static_cast<char*>(kv.values) +
                          (stored * p.layout.value_block + group * p.layout.value_group) * size;
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

void attention_cached(const Tensor& q, const Tensor& k_new, const Tensor& v_new,
                      const Tensor& cache_keys, const Tensor& cache_values, int64_t head_dim,
                      int64_t v_head_dim, const Tensor& lengths, bool ring, const Tensor& out,
                      const OptionalTensor& lse, const OptionalTensor& cu_seqlens_q,
                      const OptionalTensor& q_positions, const OptionalTensor& ancestors,
                      std::optional<double> scale, std::optional<int64_t> window_keys,
                      const OptionalTensor& sink) {
  const Check check("attention_cached");
  check.shape(q, "q",
              cu_seqlens_q ? std::initializer_list<int64_t>{kAny, kAny, kAny}
                           : std::initializer_list<int64_t>{kAny, kAny, kAny, kAny},
              cu_seqlens_q ? "[N, Hq, Dqk] with cu_seqlens_q" : "[B, T, Hq, Dqk]");
  AttentionCall call(check, {q, k_new, v_new, out, lse, sink, "k_new", "v_new"},
                     {scale, true, window_keys});
  if (call.problem.layout.dim_qk != head_dim)
    check.fail("k_new", "the cache's head dim " + std::to_string(head_dim), k_new.describe());
  if (call.problem.layout.dim_v != v_head_dim)
    check.fail("v_new", "the cache's head dim " + std::to_string(v_head_dim), v_new.describe());
  const Committed c = committed(check, call, cache_keys, cache_values, lengths, ring, q);
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
  if (ancestors)
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
    const int64_t depth = ancestors ? trees[row].deepest() : tokens;
    AttentionSequence& s = call.add_sequence(b, first, tokens, length, length + depth);
    attach(c, call.problem, b, s);
    int64_t packs = 1;
    if (ancestors) {
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

}  // namespace

void bind_attention(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
        py::arg("lse"), py::arg("scale"), py::arg("causal"), py::arg("window_keys"),
        py::arg("sink"), py::arg("kv_lens"));
  m.def("attention_varlen", &attention_varlen, py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("out"), py::arg("lse"), py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"),
        py::arg("scale"), py::arg("causal"), py::arg("window_keys"), py::arg("sink"));
  m.def("attention_cached", &attention_cached, py::arg("q"), py::arg("k_new"), py::arg("v_new"),
        py::arg("cache_keys"), py::arg("cache_values"), py::arg("head_dim"), py::arg("v_head_dim"),
        py::arg("lengths"), py::arg("ring"), py::arg("out"), py::arg("lse"),
        py::arg("cu_seqlens_q"), py::arg("q_positions"), py::arg("ancestors"), py::arg("scale"),
        py::arg("window_keys"), py::arg("sink"));
}

}  // namespace mn
