#include "attention/commit.h"

#include <algorithm>
#include <array>

#include "attention/call.h"
#include "attention/problem.h"

namespace mn {
namespace {

// The tokens that each row of the cache takes, as indices into the step.
struct Accepted {
  std::vector<int64_t> tokens;
  std::vector<int64_t> edges;  // by row of the cache
};

Accepted accept(const Check& check, const std::vector<int64_t>& step_edges,
                const std::optional<Tensor>& rows) {
  Accepted accepted;
  const int64_t total = step_edges.back();
  if (!rows) {
    for (int64_t i = 0; i < total; ++i) accepted.tokens.push_back(i);
    accepted.edges = step_edges;
    return accepted;
  }
  accepted.tokens = read_integers(check, *rows, "rows", kAny, "[M]");
  size_t i = 0;
  for (size_t b = 0; b + 1 < step_edges.size(); ++b) {
    accepted.edges.push_back(static_cast<int64_t>(i));
    while (i < accepted.tokens.size() && accepted.tokens[i] >= step_edges[b] &&
           accepted.tokens[i] < step_edges[b + 1])
      ++i;
  }
  accepted.edges.push_back(static_cast<int64_t>(i));
  if (i < accepted.tokens.size())
    check.fail("rows", "indices of the step's " + std::to_string(total) + " tokens, row by row",
               "index " + std::to_string(accepted.tokens[i]) + " at " + std::to_string(i));
  return accepted;
}

// What a row takes of a draft tree must be a path from its root; without masks, its first tokens.
void check_paths(const Check& check, const Accepted& accepted,
                 const std::vector<int64_t>& step_edges, const std::optional<Tensor>& ancestors) {
  std::vector<int64_t> masks;
  if (ancestors) masks = read_integers(check, *ancestors, "ancestors", step_edges.back(), "[N]");
  for (size_t b = 0; b + 1 < step_edges.size(); ++b) {
    uint64_t path = 0;
    for (int64_t i = accepted.edges[b]; i < accepted.edges[b + 1]; ++i) {
      const int64_t token = accepted.tokens[static_cast<size_t>(i)], node = token - step_edges[b];
      bool fits = node == i - accepted.edges[b];
      if (ancestors) {
        path |= uint64_t{1} << (node & 63);
        fits = static_cast<uint64_t>(masks[static_cast<size_t>(token)]) == path;
      }
      if (!fits)
        check.fail("rows",
                   ancestors ? "a path of the draft tree, root first" : "the first tokens of a row",
                   "token " + std::to_string(token) + " in row " + std::to_string(b));
    }
  }
}

void check_layer(const Check& check, const CommitLayer& layer, int64_t rows, int64_t tokens) {
  const auto& [keys, values, dim_qk, dim_v, held_from, k, v] = layer;
  check.shape(k, "k_new", {tokens, kAny, dim_qk}, "[N, Hkv, Dqk]");
  check.dtype(keys, "keys", {DType::f32, DType::bf16, DType::i8, DType::e4m3});
  const int64_t heads = k.shape[1];
  check.shape(v, "v_new", {tokens, heads, dim_v}, "[N, Hkv, Dv]");
  const KvLayout layout = kv_layout(k.shape[2], v.shape[2], kv_format(keys.dtype));
  check.shape(keys, "keys", {rows, heads, kAny, layout.key_block}, "[B, Hkv, blocks, 64 * Dqk]");
  check.shape(values, "values", {rows, heads, keys.shape[2], layout.value_block},
              "[B, Hkv, blocks, 64 * Dv]");
  // What the 8-bit formats are computed in.
  const DType computed = keys.dtype == DType::f32 ? DType::f32 : DType::bf16;
  const char* names[] = {"keys", "values", "k_new", "v_new"};
  const Tensor* all[] = {&keys, &values, &k, &v};
  for (int i = 0; i < 4; ++i) {
    const DType wanted = i < 2 ? keys.dtype : computed;
    if (all[i]->dtype != wanted)
      check.fail(names[i], std::string("the cache's dtype, ") + name(wanted), all[i]->describe(),
                 "Convert it with .to(dtype).");
    check.on_cpu(*all[i], names[i]);
    check.last_dim_contiguous(*all[i], names[i]);
  }
  check.contiguous(keys, "keys");
  check.contiguous(values, "values");
  if (held_from) {
    check.shape(*held_from, "held_from", {rows}, "[B]");
    check.dtype(*held_from, "held_from", {DType::i64});
    check.contiguous(*held_from, "held_from");
  }
}

// Where the tokens of every row go in one layer. A ring takes only those it will still hold.
std::vector<KvPackTask> layer_tasks(const CommitLayer& layer, const Accepted& accepted,
                                    const int64_t* lengths) {
  const auto& [keys, values, dim_qk, dim_v, held_from, k, v] = layer;
  const int64_t blocks = keys.shape[2], heads = keys.shape[1], size = size_of(keys.dtype);
  std::vector<KvPackTask> tasks;
  for (size_t b = 0; b + 1 < accepted.edges.size(); ++b) {
    const int64_t count = accepted.edges[b + 1] - accepted.edges[b];
    const int64_t skip = held_from ? std::max<int64_t>(count - blocks * kBlockKeys, 0) : 0;
    if (count == 0) continue;
    KvPackTask task{};
    task.k = k.data;
    task.v = v.data;
    task.index = accepted.tokens.data() + accepted.edges[b] + skip;
    task.tokens = count - skip;
    task.first_position = lengths[b] + skip;
    const int64_t first = static_cast<int64_t>(b) * heads * blocks;
    task.keys = keys.as<char>() + first * keys.shape[3] * size;
    task.values = values.as<char>() + first * values.shape[3] * size;
    task.head_blocks = blocks;
    task.ring_blocks = held_from ? blocks : 0;
    tasks.push_back(task);
  }
  return tasks;
}

KvPackProblem layer_problem(const CommitLayer& layer, const std::vector<KvPackTask>& tasks) {
  const auto& [keys, values, dim_qk, dim_v, held_from, k, v] = layer;
  KvPackProblem p{};
  p.layout = kv_layout(k.shape[2], v.shape[2], kv_format(keys.dtype));
  p.kv_heads = k.shape[1];
  p.k_token_stride = k.stride[0];
  p.k_head_stride = k.stride[1];
  p.v_token_stride = v.stride[0];
  p.v_head_stride = v.stride[1];
  p.tasks = tasks.data();
  p.task_count = static_cast<int64_t>(tasks.size());
  for (const KvPackTask& task : tasks)
    p.max_blocks =
        std::max(p.max_blocks, blocks_for(task.first_position % kBlockKeys + task.tokens));
  return p;
}

}  // namespace

void commit(const Check& check, const std::vector<CommitLayer>& layers, const CommitStep& step) {
  const auto& [lengths, cu_seqlens, rows, ancestors, max_tokens] = step;
  check.dtype(lengths, "lengths", {DType::i64});
  check.contiguous(lengths, "lengths");
  const int64_t batch = lengths.numel();
  if (layers.empty()) check.fail("layers", "at least one", "none");
  const int64_t tokens = layers.front().k_new.ndim ? layers.front().k_new.shape[0] : 0;
  check.shape(cu_seqlens, "cu_seqlens", {batch + 1}, "[rows of the cache + 1]");
  const std::vector<int64_t> edges = read_edges(check, cu_seqlens, "cu_seqlens", tokens);
  const Accepted accepted = accept(check, edges, rows);
  if (rows) check_paths(check, accepted, edges, ancestors);
  int64_t room = max_tokens.value_or(INT64_MAX);
  for (const CommitLayer& layer : layers) {
    check_layer(check, layer, batch, tokens);
    if (!layer.held_from) room = std::min(room, layer.keys.shape[2] * kBlockKeys);
  }
  int64_t* length = lengths.as<int64_t>();
  for (int64_t b = 0; b < batch; ++b) {
    const size_t row = static_cast<size_t>(b);
    const int64_t after = length[b] + accepted.edges[row + 1] - accepted.edges[row];
    if (after > room)
      check.fail("rows", "at most " + std::to_string(room) + " tokens in a row of the cache",
                 std::to_string(after) + " tokens in row " + std::to_string(b),
                 "Make the cache with a larger max_tokens, or truncate the row.");
  }

  std::vector<std::vector<KvPackTask>> tasks;
  std::array<std::vector<KvPackProblem>, kKvFormats> problems;
  for (const CommitLayer& layer : layers) {
    tasks.push_back(layer_tasks(layer, accepted, length));
    problems[static_cast<size_t>(kv_format(layer.keys.dtype))].push_back(
        layer_problem(layer, tasks.back()));
  }
  for (size_t format = 0; format < problems.size(); ++format)
    if (!problems[format].empty())
      attention_kernels_for_isa().formats[format].pack(
          problems[format].data(), static_cast<int64_t>(problems[format].size()));
  for (int64_t b = 0; b < batch; ++b) {
    const size_t row = static_cast<size_t>(b);
    length[b] += accepted.edges[row + 1] - accepted.edges[row];
    for (const CommitLayer& layer : layers) {
      if (!layer.held_from) continue;
      int64_t& held_from = layer.held_from->as<int64_t>()[b];
      held_from = std::max(held_from, length[b] - layer.keys.shape[2] * kBlockKeys);
    }
  }
}

}  // namespace mn
