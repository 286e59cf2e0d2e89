#include "attention/call.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/scratch.h"

namespace mn {
namespace {

float widen_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

std::vector<float> read_sink(const Check& check, const Tensor& t, int64_t heads) {
  check.shape(t, "sink", {heads}, "[Hq]");
  check.on_cpu(t, "sink");
  check.dtype(t, "sink", {DType::f32, DType::bf16});
  std::vector<float> sink(static_cast<size_t>(heads));
  for (int64_t h = 0; h < heads; ++h) {
    const float value = t.dtype == DType::f32 ? t.as<float>()[h * t.stride[0]]
                                              : widen_bf16(t.as<uint16_t>()[h * t.stride[0]]);
    if (std::isnan(value) || value == std::numeric_limits<float>::infinity())
      check.fail("sink", "finite logits or -inf", std::to_string(value));
    sink[static_cast<size_t>(h)] = value;
  }
  return sink;
}

int64_t token_stride(const Tensor& t) { return t.stride[t.ndim - 3]; }
int64_t head_stride(const Tensor& t) { return t.stride[t.ndim - 2]; }

// Element of token `token` of row `row`, head 0.
int64_t offset(const Tensor& t, int64_t row, int64_t token) {
  return (t.ndim == 4 ? row * t.stride[0] : 0) + token * token_stride(t);
}

char* element(const Tensor& t, int64_t at) { return t.as<char>() + at * size_of(t.dtype); }

}  // namespace

std::vector<int64_t> read_integers(const Check& check, const Tensor& t, const char* argument,
                                   int64_t count, const char* symbols) {
  check.shape(t, argument, {count}, symbols);
  check.on_cpu(t, argument);
  check.dtype(t, argument, {DType::i32, DType::i64});
  std::vector<int64_t> values(static_cast<size_t>(t.shape[0]));
  for (int64_t i = 0; i < t.shape[0]; ++i)
    values[static_cast<size_t>(i)] =
        t.dtype == DType::i32 ? t.as<int32_t>()[i * t.stride[0]] : t.as<int64_t>()[i * t.stride[0]];
  return values;
}

std::vector<int64_t> read_edges(const Check& check, const Tensor& t, const char* argument,
                                int64_t total) {
  const std::vector<int64_t> edges = read_integers(check, t, argument, kAny, "[D + 1]");
  if (edges.empty() || edges.front() != 0 || edges.back() != total ||
      !std::is_sorted(edges.begin(), edges.end()))
    check.fail(argument, "edges that rise from 0 to " + std::to_string(total),
               edges.empty() ? "none" : "other edges, the last " + std::to_string(edges.back()));
  return edges;
}

KvFormat kv_format(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return KvFormat::f32;
    case DType::i8:
      return KvFormat::int8;
    case DType::e4m3:
      return KvFormat::e4m3;
    default:
      return KvFormat::bf16;
  }
}

AttentionCall::AttentionCall(const Check& check, const AttentionTensors& t,
                             const AttentionOptions& options, std::optional<KvFormat> format)
    : format_(format.value_or(kv_format(t.q.dtype))), tensors_(t) {
  check_attention(check, t, options);
  AttentionProblem& p = problem;
  p.layout = kv_layout(t.q.last(), t.v.last(), format_);
  p.q_heads = t.q.shape[t.q.ndim - 2];
  p.kv_heads = t.k.shape[t.k.ndim - 2];
  p.q_token_stride = token_stride(t.q);
  p.q_head_stride = head_stride(t.q);
  p.lse_head_stride = t.q.shape[t.q.ndim - 3];
  p.causal = options.causal;
  p.window = options.window_keys.value_or(INT64_MAX);
  p.scale = static_cast<float>(attention_scale(t, options));
  if (t.sink) {
    sink_ = read_sink(check, *t.sink, p.q_heads);
    p.sink = sink_.data();
  }
}

AttentionSequence& AttentionCall::add_sequence(int64_t row, int64_t token, int64_t tokens,
                                               int64_t first_position, int64_t keys) {
  const AttentionTensors& t = tensors_;
  const bool dense = t.q.ndim == 4;
  AttentionSequence s{};
  s.q = element(t.q, offset(t.q, row, token));
  // out and lse are dense.
  const int64_t out_token = (dense ? row * t.q.shape[1] : 0) + token;
  s.out = element(t.out, out_token * problem.q_heads * problem.layout.dim_v);
  if (t.lse)
    s.lse = t.lse->as<float>() + (dense ? row * problem.q_heads * t.q.shape[1] : 0) + token;
  s.tokens = tokens;
  s.first_position = first_position;
  s.keys = keys;
  s.kv.tail_group = INT64_MAX;
  sequences_.push_back(s);
  sequence_block_.push_back(0);
  return sequences_.back();
}

KvPackTask& AttentionCall::add_task(int64_t row, int64_t token, int64_t tokens,
                                    int64_t first_position) {
  KvPackTask task{};
  task.k = element(tensors_.k, offset(tensors_.k, row, token));
  task.v = element(tensors_.v, offset(tensors_.v, row, token));
  task.tokens = tokens;
  task.first_position = first_position;
  task.first_block = first_position / kBlockKeys;
  tasks_.push_back(task);
  task_block_.push_back(0);
  return tasks_.back();
}

void AttentionCall::give_blocks(int64_t packs, int64_t blocks) {
  AttentionSequence& s = sequences_.back();
  sequence_block_.back() = buffer_blocks_;
  s.first_task = static_cast<int64_t>(tasks_.size()) - packs;
  s.task_count = packs;
  s.kv.tail_blocks = blocks;
  if (s.kv.tail_group == INT64_MAX) s.kv.head_blocks = blocks;
  for (int64_t i = s.first_task; i < s.first_task + packs; ++i) {
    tasks_[static_cast<size_t>(i)].head_blocks = blocks;
    task_block_[static_cast<size_t>(i)] = buffer_blocks_;
    buffer_blocks_ += problem.kv_heads * blocks;
  }
}

void AttentionCall::run() {
  AttentionProblem& p = problem;
  const AttentionKernels& kernels = attention_kernels_for_isa()[format_];
  const int64_t size = size_of(format_);
  const int64_t key_bytes = p.layout.key_block * size, value_bytes = p.layout.value_block * size;
  const int threads = omp_get_max_threads();
  p.sequences = sequences_.data();
  const AttentionPlan plan = plan_attention(p, static_cast<int64_t>(sequences_.size()), threads);
  p.jobs = plan.jobs.data();
  p.job_count = static_cast<int64_t>(plan.jobs.size());
  p.merges = plan.merges.data();
  p.merge_count = static_cast<int64_t>(plan.merges.size());
  p.tile_rows = plan.tile_rows;
  p.pack_in_job = plan.one_tile;
  p.scratch_bytes = kernels.scratch_bytes(p.layout, p.tile_rows);

  ScratchPlan parts;
  const int64_t keys_at = parts.add(buffer_blocks_ * key_bytes);
  const int64_t values_at = parts.add(buffer_blocks_ * value_bytes);
  const int64_t partial_at = parts.add(plan.partial_rows * (p.layout.padded_v + 16) * 4);
  const int64_t threads_at = parts.add(p.scratch_bytes * threads);
  char* const memory = scratch(parts.total());
  char *const keys = memory + keys_at, *const values = memory + values_at;
  p.partial = reinterpret_cast<float*>(memory + partial_at);
  p.scratch = memory + threads_at;

  KvPackProblem pack{};
  for (size_t i = 0; i < tasks_.size(); ++i) {
    tasks_[i].keys = keys + task_block_[i] * key_bytes;
    tasks_[i].values = values + task_block_[i] * value_bytes;
    pack.max_blocks = std::max(
        pack.max_blocks, blocks_for(tasks_[i].first_position % kBlockKeys + tasks_[i].tokens));
  }
  for (size_t i = 0; i < sequences_.size(); ++i) {
    KvSource& kv = sequences_[i].kv;
    char* const k = keys + sequence_block_[i] * key_bytes;
    char* const v = values + sequence_block_[i] * value_bytes;
    (kv.tail_group == INT64_MAX ? kv.keys : kv.tail_keys) = k;
    (kv.tail_group == INT64_MAX ? kv.values : kv.tail_values) = v;
  }
  pack.layout = p.layout;
  pack.kv_heads = p.kv_heads;
  pack.k_token_stride = token_stride(tensors_.k);
  pack.k_head_stride = head_stride(tensors_.k);
  pack.v_token_stride = token_stride(tensors_.v);
  pack.v_head_stride = head_stride(tensors_.v);
  pack.tasks = tasks_.data();
  pack.task_count = static_cast<int64_t>(tasks_.size());
  p.pack = &pack;
  kernels.attend(p);
}

}  // namespace mn
