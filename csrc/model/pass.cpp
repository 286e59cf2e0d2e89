#include "model/pass.h"

#include <algorithm>
#include <cstring>

#include "attention/cached.h"
#include "experts/run.h"
#include "gemm/run.h"
#include "model/problem.h"
#include "norm_rope/problem.h"
#include "routing/run.h"
#include "runtime/scratch.h"

namespace mn {
namespace {

const std::optional<Tensor> kNone;

// The sizes of the memory between the ops, largest over the layers.
struct Widths {
  int64_t qkv = 0, q = 0, attended = 0, experts = 0, slots = 0, joined = 0;

  explicit Widths(const Decoder& decoder) {
    for (const DecoderLayer& layer : decoder.layers) {
      const AttentionWeights& a = layer.attention;
      qkv = std::max(qkv, a.qkv.layout.outputs);
      q = std::max(q, a.q_heads * a.head_dim);
      attended = std::max(attended, a.q_heads * a.v_head_dim);
      if (!layer.router) continue;
      experts = std::max(experts, layer.router->proj.layout.outputs);
      slots = std::max(slots, layer.router->top_k);
    }
    if (decoder.join) joined = 2 * decoder.hidden_size;
  }
};

}  // namespace

Tensor dense(void* data, DType dtype, std::initializer_list<int64_t> sizes) {
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  t.ndim = static_cast<int>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), t.shape);
  int64_t stride = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    t.stride[i] = stride;
    stride *= t.shape[i];
  }
  return t;
}

Pass::Pass(const Decoder& decoder, PassTokens tokens, int64_t logit_rows)
    : decoder_(decoder),
      tokens_(std::move(tokens)),
      n_(tokens_.count),
      dtype_(decoder.bf16 ? DType::bf16 : DType::f32) {
  const Widths widths(decoder);
  const int64_t value = size_of(dtype_);
  ScratchPlan parts;
  const int64_t rows = std::max(n_, logit_rows);
  const int64_t normed = parts.add(rows * decoder.hidden_size * value);
  const int64_t branch = parts.add(n_ * decoder.hidden_size * value);
  const int64_t qkv = parts.add(n_ * std::max(widths.qkv, widths.joined) * value);
  const int64_t q = parts.add(n_ * widths.q * value);
  const int64_t attended = parts.add(n_ * widths.attended * value);
  const int64_t router_logits = parts.add(n_ * widths.experts * 4);
  const int64_t ids = parts.add(n_ * widths.slots * 4);
  const int64_t weights = parts.add(n_ * widths.slots * 4);
  char* base = workspace(parts.total());
  normed_ = base + normed;
  branch_ = base + branch;
  qkv_ = base + qkv;
  q_ = base + q;
  attended_ = base + attended;
  router_logits_ = reinterpret_cast<float*>(base + router_logits);
  ids_ = reinterpret_cast<int32_t*>(base + ids);
  weights_ = reinterpret_cast<float*>(base + weights);
}

void Pass::join(const Join& j, const void* hidden) {
  const int64_t row = decoder_.hidden_size * size_of(dtype_);
  const void* halves[] = {tokens_.x, hidden};
  const Norm* norms[] = {&j.embedded, &j.hidden};
  for (int half = 0; half < 2; ++half) {
    norm(*norms[half], halves[half], n_, normed_);
    for (int64_t i = 0; i < n_; ++i)
      std::memcpy(qkv_ + (2 * i + half) * row, normed_ + i * row, static_cast<size_t>(row));
  }
  linear(j.weight, qkv_, n_, tokens_.x, decoder_.bf16);
}

const int32_t* Pass::layer(const DecoderLayer& l, const CommitLayer& cache, const Tensor& lengths,
                           char* staged, const std::vector<int64_t>* ends) {
  keys_values(l, staged);
  attend(l.attention, cache, lengths, staged);
  if (ends) keep(l.attention, *ends);
  linear(l.attention.o, attended_, n_, branch_, decoder_.bf16);
  add();
  norm(l.before_mlp, tokens_.x, n_, normed_);
  feed_forward(l);
  add();
  return l.router ? ids_ : nullptr;
}

void Pass::keys_values(const DecoderLayer& l, char* staged) {
  norm(l.before_attention, tokens_.x, n_, normed_);
  project(l.attention, staged);
}

// x and attended shrink to these tokens, in ascending order.
void Pass::keep(const AttentionWeights& a, const std::vector<int64_t>& ends) {
  const int64_t value = size_of(dtype_);
  const std::pair<char*, int64_t> rows[] = {
      {static_cast<char*>(tokens_.x), decoder_.hidden_size * value},
      {attended_, a.q_heads * a.v_head_dim * value}};
  for (const auto& [base, bytes] : rows)
    for (size_t i = 0; i < ends.size(); ++i)
      std::memmove(base + static_cast<int64_t>(i) * bytes, base + ends[i] * bytes,
                   static_cast<size_t>(bytes));
  n_ = static_cast<int64_t>(ends.size());
}

void Pass::final_norm() { norm(decoder_.norm, tokens_.x, n_, tokens_.x); }

void Pass::logits(const Weights& head, const std::vector<int64_t>* rows, void* out) {
  const int64_t row = decoder_.hidden_size * size_of(dtype_);
  const int64_t count = rows ? static_cast<int64_t>(rows->size()) : n_;
  const char* x = static_cast<const char*>(tokens_.x);
  const bool normed = decoder_.join.has_value();
  if (rows) {
    for (int64_t i = 0; i < count; ++i) {
      const char* token = x + (*rows)[static_cast<size_t>(i)] * row;
      if (normed)
        std::memcpy(normed_ + i * row, token, static_cast<size_t>(row));
      else
        norm(decoder_.norm, token, 1, normed_ + i * row);
    }
  } else if (!normed) {
    norm(decoder_.norm, x, n_, normed_);
  }
  linear(head, normed && !rows ? x : normed_, count, out, false);
}

void Pass::norm(const Norm& norm, const void* x, int64_t rows, void* y) const {
  const NormRopeKernels& kernels = norm_rope_kernels_for_isa();
  const auto kernel = !decoder_.bf16 ? kernels.rms_norm_f32
                      : norm.bf16    ? kernels.rms_norm_bf16
                                     : kernels.rms_norm_bf16_weight_f32;
  kernel({.rows = rows,
          .dim = decoder_.hidden_size,
          .x_stride = decoder_.hidden_size,
          .eps = norm.eps,
          .x = x,
          .weight = norm.weight,
          .y = y});
}

void Pass::linear(const Weights& w, const void* x, int64_t rows, void* y, bool y_bf16) const {
  run_gemm({x, w.layout.inputs, nullptr, decoder_.bf16}, w, &rows, 1, y, y_bf16);
}

void Pass::add() const {
  const ModelKernels& kernels = model_kernels_for_isa();
  (decoder_.bf16 ? kernels.add_bf16
                 : kernels.add_f32)({n_ * decoder_.hidden_size, tokens_.x, branch_});
}

const float* Pass::table(double theta, int64_t rotary_dim) {
  std::vector<float>& t = tables_[{theta, rotary_dim}];
  if (t.empty()) {
    t.resize(static_cast<size_t>(n_ * rotary_dim));
    rope_table(tokens_.positions.data(), n_, theta, rotary_dim, t.data());
  }
  return t.data();
}

void Pass::project(const AttentionWeights& a, char* staged) {
  linear(a.qkv, normed_, n_, qkv_, decoder_.bf16);
  const int64_t value = size_of(dtype_), width = a.qkv.layout.outputs;
  const int64_t q_width = a.q_heads * a.head_dim, k_width = a.kv_heads * a.head_dim;
  char* const v_new = staged + n_ * k_width * value;
  const auto part = [&](int64_t heads, int64_t dim, int64_t column, void* out) {
    return RopeTensor{heads, dim, width, dim, qkv_ + column * value, out};
  };
  const NormRopeKernels& kernels = norm_rope_kernels_for_isa();
  (decoder_.bf16 ? kernels.rope_bf16 : kernels.rope_f32)(
      {.tokens = n_,
       .rotary_dim = a.rotary_dim,
       .table = table(a.theta, a.rotary_dim),
       .value_scale = a.value_scale,
       .q = part(a.q_heads, a.head_dim, 0, q_),
       .k = part(a.kv_heads, a.head_dim, q_width, staged),
       .v = part(a.kv_heads, a.v_head_dim, q_width + k_width, v_new)});
}

void Pass::attend(const AttentionWeights& a, const CommitLayer& cache, const Tensor& lengths,
                  char* staged) {
  char* const v_new = staged + n_ * a.kv_heads * a.head_dim * size_of(dtype_);
  attention_cached(
      Check("attention_cached"),
      {dense(q_, dtype_, {n_, a.q_heads, a.head_dim}),
       dense(staged, dtype_, {n_, a.kv_heads, a.head_dim}),
       dense(v_new, dtype_, {n_, a.kv_heads, a.v_head_dim}),
       dense(attended_, dtype_, {n_, a.q_heads, a.v_head_dim}), kNone, a.sink, "k_new", "v_new"},
      {cache.keys, cache.values, cache.head_dim, cache.v_head_dim, lengths,
       cache.held_from.has_value()},
      {tokens_.cu_seqlens, kNone, tokens_.ancestors},
      {.scale = std::nullopt, .causal = true, .window_keys = a.window_keys});
}

void Pass::feed_forward(const DecoderLayer& l) {
  ExpertLayer layer{.gate_up = l.gate_up,
                    .down = l.down,
                    .routed = l.router.has_value(),
                    .ids = ids_,
                    .weights = nullptr,
                    .slots = 1};
  if (l.router) {
    route(*l.router);
    layer.weights = weights_;
    layer.slots = l.router->top_k;
  }
  run_experts(layer, {normed_, decoder_.hidden_size, nullptr, decoder_.bf16}, n_, nullptr, branch_,
              decoder_.bf16);
}

void Pass::route(const Router& r) {
  linear(r.proj, normed_, n_, router_logits_, false);
  run_route(Check("route"), {.tokens = n_,
                             .experts = r.proj.layout.outputs,
                             .top_k = r.top_k,
                             .groups = r.groups,
                             .open_groups = r.open_groups,
                             .rule = r.rule,
                             .logits = router_logits_,
                             .logits_stride = r.proj.layout.outputs,
                             .bias = r.bias,
                             .replay = false,
                             .ids = ids_,
                             .weights = weights_,
                             .job_shares = nullptr,
                             .job_counts = nullptr});
}

}  // namespace mn
