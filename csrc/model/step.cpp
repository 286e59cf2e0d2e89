#include "model/step.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

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

// Position of every token: after its row's committed ones, a tree's node as deep as it has
// ancestors.
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

class Pass {
 public:
  Pass(const Decoder& decoder, const StepTokens& tokens, std::vector<int64_t> positions,
       int64_t logit_rows)
      : decoder_(decoder),
        tokens_(tokens),
        positions_(std::move(positions)),
        n_(static_cast<int64_t>(positions_.size())),
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

  // x = W [norm(x), norm(hidden)]
  void join(const Join& j) {
    const int64_t row = decoder_.hidden_size * size_of(dtype_);
    const void* halves[] = {tokens_.x.data, tokens_.hidden->data};
    const Norm* norms[] = {&j.embedded, &j.hidden};
    for (int half = 0; half < 2; ++half) {
      norm(*norms[half], halves[half], n_, normed_);
      for (int64_t i = 0; i < n_; ++i)
        std::memcpy(qkv_ + (2 * i + half) * row, normed_ + i * row, static_cast<size_t>(row));
    }
    linear(j.weight, qkv_, n_, tokens_.x.data, decoder_.bf16);
  }

  // `staged` receives the new keys, then the new values; `routing` the router's ids, or null.
  void layer(const DecoderLayer& l, const CommitLayer& cache, const Tensor& lengths, char* staged,
             int32_t* routing) {
    norm(l.before_attention, tokens_.x.data, n_, normed_);
    attention(l.attention, cache, lengths, staged);
    add();
    norm(l.before_mlp, tokens_.x.data, n_, normed_);
    feed_forward(l, routing);
    add();
  }

  void final_norm() { norm(decoder_.norm, tokens_.x.data, n_, tokens_.x.data); }

  void logits(const Tensor& out, const std::optional<Tensor>& rows) {
    const int64_t count = out.shape[0], row = decoder_.hidden_size * size_of(dtype_);
    const char* x = tokens_.x.as<char>();
    const void* source = normed_;
    for (int64_t i = 0; rows && i < count; ++i) {
      const char* token = x + rows->as<int64_t>()[i] * row;
      if (decoder_.join)  // already normed
        std::memcpy(normed_ + i * row, token, static_cast<size_t>(row));
      else
        norm(decoder_.norm, token, 1, normed_ + i * row);
    }
    if (!rows) {
      if (decoder_.join)
        source = x;
      else
        norm(decoder_.norm, x, n_, normed_);
    }
    linear(decoder_.head, source, count, out.data, false);
  }

 private:
  void norm(const Norm& norm, const void* x, int64_t rows, void* y) const {
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

  void linear(const Weights& w, const void* x, int64_t rows, void* y, bool y_bf16) const {
    run_gemm({x, w.layout.inputs, nullptr, decoder_.bf16}, w, &rows, 1, y, y_bf16);
  }

  // x += branch
  void add() const {
    const ModelKernels& kernels = model_kernels_for_isa();
    (decoder_.bf16 ? kernels.add_bf16
                   : kernels.add_f32)({n_ * decoder_.hidden_size, tokens_.x.data, branch_});
  }

  const float* table(double theta, int64_t rotary_dim) {
    std::vector<float>& t = tables_[{theta, rotary_dim}];
    if (t.empty()) {
      t.resize(static_cast<size_t>(n_ * rotary_dim));
      rope_table(positions_.data(), n_, theta, rotary_dim, t.data());
    }
    return t.data();
  }

  void attention(const AttentionWeights& a, const CommitLayer& cache, const Tensor& lengths,
                 char* staged) {
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
    linear(a.o, attended_, n_, branch_, decoder_.bf16);
  }

  void feed_forward(const DecoderLayer& l, int32_t* routing) {
    ExpertLayer layer{.gate_up = l.gate_up,
                      .down = l.down,
                      .routed = l.router.has_value(),
                      .ids = routing ? routing : ids_,
                      .weights = nullptr,
                      .slots = 1};
    if (l.router) {
      route(*l.router, routing ? routing : ids_);
      layer.weights = weights_;
      layer.slots = l.router->top_k;
    }
    run_experts(layer, {normed_, decoder_.hidden_size, nullptr, decoder_.bf16}, n_, nullptr,
                branch_, decoder_.bf16);
  }

  void route(const Router& r, int32_t* ids) {
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
                               .ids = ids,
                               .weights = weights_,
                               .job_shares = nullptr,
                               .job_counts = nullptr});
  }

  const Decoder& decoder_;
  const StepTokens& tokens_;
  const std::vector<int64_t> positions_;
  const int64_t n_;
  const DType dtype_;
  char *normed_, *branch_, *qkv_, *q_, *attended_;
  float *router_logits_, *weights_;
  int32_t* ids_;
  std::map<std::pair<double, int64_t>, std::vector<float>> tables_;
};

}  // namespace

int64_t CacheLayers::staged_per_token() const {
  int64_t count = 0;
  for (const CommitLayer& layer : layers)
    count += layer.keys.shape[1] * (layer.head_dim + layer.v_head_dim);
  return count;
}

void run_step(const Check& check, const Decoder& decoder, const CacheLayers& caches,
              const StepTokens& tokens, const StepResults& results) {
  const int64_t n = tokens.x.shape[0];
  const std::vector<int64_t> edges = read_edges(check, tokens.cu_seqlens, "cu_seqlens", n);
  std::vector<int64_t> masks;
  if (tokens.ancestors) masks = read_integers(check, *tokens.ancestors, "ancestors", n, "[N]");
  Pass pass(decoder, tokens, token_positions(caches.lengths, edges, masks),
            results.logits ? results.logits->shape[0] : 0);
  if (decoder.join) pass.join(*decoder.join);
  char* staged = results.staged.as<char>();
  int32_t* routing = results.routing ? results.routing->as<int32_t>() : nullptr;
  for (size_t i = 0; i < decoder.layers.size(); ++i) {
    const DecoderLayer& layer = decoder.layers[i];
    const AttentionWeights& a = layer.attention;
    pass.layer(layer, caches.layers[i], caches.lengths, staged, layer.router ? routing : nullptr);
    staged += n * a.kv_heads * (a.head_dim + a.v_head_dim) * size_of(tokens.x.dtype);
    if (layer.router && routing) routing += n * layer.router->top_k;
  }
  if (decoder.join) pass.final_norm();
  if (results.logits) pass.logits(*results.logits, results.logit_rows);
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

}  // namespace mn
