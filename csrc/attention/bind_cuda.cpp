#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "attention/kernels_cuda.h"
#include "attention/validate.h"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/module.h"
#include "runtime/new_tensor.h"

namespace mn {
namespace {

using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kMostTreeNodes = 64;

SequenceTensor sequence_tensor(const Tensor& t) {
  return {t.data, t.ndim == 4 ? t.stride[0] : 0, t.stride[t.ndim - 3], t.stride[t.ndim - 2]};
}

// The contents are read on the device, unchecked: edges and lengths beyond the tensors are cut.
DeviceIntegers device_integers(const Check& check, const Tensor& t, const char* argument,
                               int64_t count, const char* symbols, const Tensor& q) {
  check.shape(t, argument, {count}, symbols);
  check.same_device(t, argument, q, "q");
  check.dtype(t, argument, {DType::i32, DType::i64});
  check.contiguous(t, argument);
  return {t.data, t.dtype == DType::i64};
}

// Everything but what belongs to one kind of call.
class Call {
 public:
  Call(const Check& check, const AttentionTensors& t, const AttentionOptions& options)
      : check_(check), t_(t) {
    check_attention(check, t, options);
    const Tensor &q = t.q, &k = t.k;
    const bool dense = q.ndim == 4;
    p.q = sequence_tensor(q);
    p.k = sequence_tensor(k);
    p.v = sequence_tensor(t.v);
    p.out = t.out.data;
    p.q_heads = int_of(q.shape[q.ndim - 2]);
    p.kv_heads = int_of(k.shape[k.ndim - 2]);
    p.dim_qk = int_of(q.last());
    p.dim_v = int_of(t.v.last());
    p.q_tokens = int_of(q.shape[q.ndim - 3]);
    p.k_tokens = int_of(k.shape[k.ndim - 3]);
    p.sequences = dense ? int_of(q.shape[0]) : 0;
    p.total_q = dense ? int_of(q.shape[0] * q.shape[1]) : p.q_tokens;
    p.total_k = dense ? int_of(k.shape[0] * k.shape[1]) : p.k_tokens;
    p.causal = options.causal;
    p.window = static_cast<int>(
        std::min<int64_t>(options.window_keys.value_or(kSm80NoWindow), kSm80NoWindow));
    p.scale_log2 = static_cast<float>(attention_scale(t, options) * M_LOG2E);
    if (t.lse) {
      p.lse = t.lse->as<float>();
      p.lse_row_stride = dense ? int64_t{p.q_heads} * p.q_tokens : 0;
      p.lse_head_stride = p.q_tokens;
    }
    if (t.sink) {
      check.shape(*t.sink, "sink", {p.q_heads}, "[Hq]");
      check.same_device(*t.sink, "sink", q, "q");
      check.dtype(*t.sink, "sink", {DType::f32, DType::bf16});
      check.contiguous(*t.sink, "sink");
      p.sink = t.sink->data;
      p.sink_is_bf16 = t.sink->dtype == DType::bf16;
    }
  }

  void run(int64_t most_keys) const {
    AttentionSm80Problem problem = p;
    const AttentionSm80Plan plan = plan_attention_sm80(
        {.sequences = p.sequences,
         .tokens = p.total_q,
         .longest = p.q_tokens,
         .most_keys = most_keys,
         .q_heads = p.q_heads,
         .kv_heads = p.kv_heads,
         .dim_qk = p.dim_qk,
         .dim_v = p.dim_v,
         .window = p.window,
         .element = static_cast<int>(size_of(t_.q.dtype)),
         .multiprocessors = gpu_of(t_.q.device_index, check_.op()).multiprocessors});
    std::optional<NewTensor> partial, stats;
    if (plan.splits > 1) {
      const int64_t rows = int64_t{plan.splits} * p.total_q * p.q_heads;
      partial = new_tensor(t_.q, DType::f32, {rows, p.dim_v});
      stats = new_tensor(t_.q, DType::f32, {rows, 2});
      problem.partial = partial->view.as<float>();
      problem.partial_stats = stats->view.as<float>();
    }
    auto* kernel = t_.q.dtype == DType::bf16 ? attention_bf16_sm80 : attention_f32_sm80;
    launch_on_device_of(t_.q, check_.op(),
                        [&](cudaStream_t stream) { kernel(problem, plan, stream); });
  }

  AttentionSm80Problem p{};

 private:
  int int_of(int64_t size) const {
    check_.range(size, "the size of a tensor", 0, kSm80NoWindow);
    return static_cast<int>(size);
  }

  Check check_;
  AttentionTensors t_;
};

void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
               const OptionalTensor& lse, std::optional<double> scale, bool causal,
               std::optional<int64_t> window_keys, const OptionalTensor& sink,
               const OptionalTensor& kv_lens) {
  const Check check("attention", kCudaDevice);
  check.shape(q, "q", {kAny, kAny, kAny, kAny}, "[B, T, Hq, Dqk]");
  Call call(check, {q, k, v, out, lse, sink}, {scale, causal, window_keys});
  if (kv_lens)
    call.p.key_lengths = device_integers(check, *kv_lens, "kv_lens", q.shape[0], "[B]", q);
  call.run(k.shape[1]);
}

void attention_varlen(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                      const OptionalTensor& lse, const Tensor& cu_seqlens_q,
                      const Tensor& cu_seqlens_k, std::optional<double> scale, bool causal,
                      std::optional<int64_t> window_keys, const OptionalTensor& sink) {
  const Check check("attention_varlen", kCudaDevice);
  check.shape(q, "q", {kAny, kAny, kAny}, "[N, Hq, Dqk]");
  Call call(check, {q, k, v, out, lse, sink}, {scale, causal, window_keys});
  check.shape(cu_seqlens_q, "cu_seqlens_q", {kAny}, "[D + 1]");
  const int64_t edges = cu_seqlens_q.shape[0];
  if (edges < 1) check.fail("cu_seqlens_q", "at least one edge", "none");
  call.p.q_edges = device_integers(check, cu_seqlens_q, "cu_seqlens_q", edges, "[D + 1]", q);
  call.p.k_edges =
      device_integers(check, cu_seqlens_k, "cu_seqlens_k", edges, "[D + 1], as cu_seqlens_q", q);
  call.p.sequences = static_cast<int>(edges - 1);
  call.run(k.shape[0]);
}

void attention_cached(const Tensor& q, const Tensor& k_new, const Tensor& v_new,
                      const Tensor& cache_keys, const Tensor& cache_values, int64_t head_dim,
                      int64_t v_head_dim, const Tensor& lengths, bool ring, const Tensor& out,
                      const OptionalTensor& lse, const OptionalTensor& cu_seqlens_q,
                      const OptionalTensor& ancestors, std::optional<double> scale,
                      std::optional<int64_t> window_keys, const OptionalTensor& sink) {
  const Check check("attention_cached", kCudaDevice);
  check.shape(q, "q",
              cu_seqlens_q ? std::initializer_list<int64_t>{kAny, kAny, kAny}
                           : std::initializer_list<int64_t>{kAny, kAny, kAny, kAny},
              cu_seqlens_q ? "[N, Hq, Dqk] with cu_seqlens_q" : "[B, T, Hq, Dqk]");
  Call call(check, {q, k_new, v_new, out, lse, sink, "k_new", "v_new"}, {scale, true, window_keys});
  AttentionSm80Problem& p = call.p;
  if (p.dim_qk != head_dim)
    check.fail("k_new", "the cache's head dim " + std::to_string(head_dim), k_new.describe());
  if (p.dim_v != v_head_dim)
    check.fail("v_new", "the cache's head dim " + std::to_string(v_head_dim), v_new.describe());
  check.shape(lengths, "layer_cache.lengths", {kAny}, "[B]");
  const int64_t rows = lengths.shape[0];
  check.dtype(lengths, "layer_cache.lengths", {DType::i64});
  check.shape(cache_keys, "layer_cache.keys", {rows, p.kv_heads, kAny, p.dim_qk},
              "[B, Hkv, capacity, Dqk]");
  const int64_t capacity = cache_keys.shape[2];
  check.shape(cache_values, "layer_cache.values", {rows, p.kv_heads, capacity, p.dim_v},
              "[B, Hkv, capacity, Dv]");
  const std::pair<const Tensor*, const char*> stored[] = {{&cache_keys, "layer_cache.keys"},
                                                          {&cache_values, "layer_cache.values"},
                                                          {&lengths, "layer_cache.lengths"}};
  for (const auto& [tensor, name] : stored) {
    check.same_device(*tensor, name, q, "q");
    check.contiguous(*tensor, name);
    if (tensor != &lengths) check.same_dtype(*tensor, name, q, "q");
  }
  if (capacity % kSm80KeyTile)
    check.fail("layer_cache.keys", "a capacity that is a multiple of 64", cache_keys.describe());
  if (ring && p.window - 1 > capacity)
    check.fail("window_keys", "at most " + std::to_string(capacity + 1) + ", which the ring holds",
               window_keys ? std::to_string(*window_keys) : "None");
  if (cu_seqlens_q) {
    p.q_edges = device_integers(check, *cu_seqlens_q, "cu_seqlens_q", rows + 1,
                                "[rows of the cache + 1]", q);
    p.k_edges = p.q_edges;
    p.sequences = static_cast<int>(rows);
  } else {
    check.shape(q, "q", {rows, kAny, kAny, kAny}, "[rows of the cache, T, Hq, Dqk]");
  }
  if (p.k_tokens != p.q_tokens)
    check.fail("k_new", "as many tokens as q, " + std::to_string(p.q_tokens), k_new.describe());
  if (ancestors) {
    if (cu_seqlens_q)
      check.shape(*ancestors, "ancestors", {q.shape[0]}, "[N]");
    else
      check.shape(*ancestors, "ancestors", {rows, q.shape[1]}, "[B, T]");
    check.dtype(*ancestors, "ancestors", {DType::i64});
    check.same_device(*ancestors, "ancestors", q, "q");
    check.contiguous(*ancestors, "ancestors");
    if (p.total_q > kMostTreeNodes * rows || (!cu_seqlens_q && p.q_tokens > kMostTreeNodes))
      check.fail("ancestors", "at most 64 nodes in a row", ancestors->describe());
    p.ancestors = ancestors->as<int64_t>();
  }
  p.cache_keys = cache_keys.data;
  p.cache_values = cache_values.data;
  p.lengths = lengths.as<int64_t>();
  p.capacity = static_cast<int>(capacity);
  call.run(capacity + p.q_tokens);
}

CommitTensor commit_tensor(const Check& check, const Tensor& stored, const Tensor& fresh,
                           const char* stored_name, const char* fresh_name) {
  check.shape(stored, stored_name, {kAny, kAny, kAny, kAny}, "[B, Hkv, capacity, D]");
  check.on_device(stored, stored_name);
  check.dtype(stored, stored_name, {DType::f32, DType::bf16});
  check.contiguous(stored, stored_name);
  check.shape(fresh, fresh_name, {kAny, stored.shape[1], stored.shape[3]}, "[N, Hkv, D]");
  check.same_device(fresh, fresh_name, stored, stored_name);
  check.same_dtype(fresh, fresh_name, stored, stored_name);
  check.last_dim_contiguous(fresh, fresh_name);
  const int64_t size = size_of(stored.dtype);
  return {fresh.data, fresh.stride[0] * size, fresh.stride[1] * size, stored.data,
          stored.shape[3] * size};
}

// Keys, values, and a step's new keys and values.
using LayerTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// All layers, as many as fit at a time. What the table says was checked by whoever wrote it.
void cache_commit(const std::vector<LayerTensors>& layers, const Tensor& table) {
  const Check check("commit", kCudaDevice);
  std::vector<CommitSm80Layer> checked;
  checked.reserve(layers.size());
  for (const auto& [keys, values, k_new, v_new] : layers) {
    check.same_device(keys, "keys", table, "table");
    checked.push_back({.keys = commit_tensor(check, keys, k_new, "keys", "k_new"),
                       .values = commit_tensor(check, values, v_new, "values", "v_new"),
                       .kv_heads = keys.shape[1],
                       .capacity = keys.shape[2]});
  }
  check.shape(table, "table", {kAny, kCommitColumns}, "[accepted, 4]");
  check.dtype(table, "table", {DType::i64});
  check.contiguous(table, "table");
  launch_on_device_of(table, check.op(), [&](cudaStream_t stream) {
    for (size_t first = 0; first < checked.size(); first += kCommitLayers) {
      CommitSm80Problem p{};
      p.table = table.as<int64_t>();
      p.accepted = table.shape[0];
      p.layers = static_cast<int>(std::min<size_t>(kCommitLayers, checked.size() - first));
      std::copy_n(checked.begin() + static_cast<int64_t>(first), p.layers, p.layer);
      cache_commit_sm80(p, stream);
    }
  });
}

pybind11::dict plan(int64_t sequences, int64_t tokens, int64_t longest, int64_t most_keys,
                    int64_t q_heads, int64_t kv_heads, int64_t dim_qk, int64_t dim_v,
                    int64_t window, int64_t element, int64_t multiprocessors) {
  const auto n = [](int64_t x) { return static_cast<int>(x); };
  const AttentionSm80Plan plan = plan_attention_sm80(
      {n(sequences), tokens, longest, most_keys, n(q_heads), n(kv_heads), n(dim_qk), n(dim_v),
       n(std::min<int64_t>(window, kSm80NoWindow)), n(element), n(multiprocessors)});
  pybind11::dict fields;
  fields["row_warps"] = plan.row_warps;
  fields["tile_tokens"] = plan.tile_tokens;
  fields["tiles"] = plan.tiles;
  fields["splits"] = plan.splits;
  fields["shared_bytes"] = plan.shared_bytes;
  fields["released_dims"] = plan.released_dims;
  return fields;
}

}  // namespace

void bind_attention_cuda(pybind11::module_& m) {
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
        py::arg("cu_seqlens_q"), py::arg("ancestors"), py::arg("scale"), py::arg("window_keys"),
        py::arg("sink"));
  m.def("attention_plan", &plan,
        "How a call would be laid over a GPU; csrc/attention/plan_sm80.h has the fields.",
        py::kw_only(), py::arg("sequences"), py::arg("tokens"), py::arg("longest"),
        py::arg("most_keys"), py::arg("q_heads"), py::arg("kv_heads"), py::arg("dim_qk"),
        py::arg("dim_v"), py::arg("window"), py::arg("element"), py::arg("multiprocessors"));
  m.def("cache_commit", &cache_commit, py::arg("layers"), py::arg("table"));
}

}  // namespace mn
