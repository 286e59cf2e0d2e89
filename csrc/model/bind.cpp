#include <pybind11/stl.h>

#include "gemm/arguments.h"
#include "model/step.h"
#include "model/watch.h"
#include "runtime/module.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

namespace py = pybind11;

using MaybeTensor = std::optional<Tensor>;
using Packed = std::pair<Tensor, PackedLayout>;  // bytes and their layout
// Norm weights [D] and eps.
using NormArgument = std::pair<Tensor, double>;

const Check kCheck("decoder");

Norm norm_of(const NormArgument& n) {
  kCheck.dtype(n.first, "norm", {DType::f32, DType::bf16});
  kCheck.contiguous(n.first, "norm");
  return {n.first.data, n.first.dtype == DType::bf16, static_cast<float>(n.second)};
}

Weights weight_of(const Packed& w, const char* name) {
  return weights_argument(kCheck, w.first, &w.second, 0, name, "");
}

AttentionWeights make_attention(const Packed& qkv, const Packed& o, int64_t q_heads,
                                int64_t kv_heads, int64_t head_dim, int64_t v_head_dim,
                                double theta, int64_t rotary_dim, double value_scale,
                                std::optional<int64_t> window_keys, const MaybeTensor& sink) {
  return {.qkv = weight_of(qkv, "qkv"),
          .o = weight_of(o, "o"),
          .q_heads = q_heads,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .v_head_dim = v_head_dim,
          .theta = theta,
          .rotary_dim = rotary_dim,
          .value_scale = static_cast<float>(value_scale),
          .window_keys = window_keys,
          .sink = sink};
}

Router make_router(const Packed& proj, const Tensor& bias, int64_t top_k, int64_t n_group,
                   int64_t topk_group, bool normalize, double scaling) {
  kCheck.shape(bias, "bias", {proj.second.outputs}, "[E]");
  kCheck.dtype(bias, "bias", {DType::f32});
  kCheck.contiguous(bias, "bias");
  return {.proj = weight_of(proj, "router"),
          .bias = bias.as<float>(),
          .top_k = top_k,
          .groups = n_group,
          .open_groups = topk_group,
          .rule = {Scoring::sigmoid, normalize, static_cast<float>(scaling)}};
}

DecoderLayer make_layer(const NormArgument& before_attention, const AttentionWeights& attention,
                        const NormArgument& before_mlp, const Packed& gate_up, const Packed& down,
                        const std::optional<Router>& router) {
  return {.before_attention = norm_of(before_attention),
          .before_mlp = norm_of(before_mlp),
          .attention = attention,
          .gate_up = weight_of(gate_up, "gate_up"),
          .down = weight_of(down, "down"),
          .router = router};
}

Join make_join(const NormArgument& embedded, const NormArgument& hidden, const Packed& weight) {
  return {norm_of(embedded), norm_of(hidden), weight_of(weight, "eh")};
}

Embedding table_of(const Tensor& table) {
  kCheck.shape(table, "embedding", {kAny, kAny}, "[V, D]");
  kCheck.dtype(table, "embedding", {DType::f32, DType::bf16});
  kCheck.contiguous(table, "embedding");
  return {table.data,
          false,
          {.format = table.dtype == DType::bf16 ? Format::bf16 : Format::f32,
           .experts = 1,
           .outputs = table.shape[0],
           .inputs = table.shape[1],
           .expert_panels = 0}};
}

// The embedding is a table, or with `tied` the head's plain packed weight, or the caller's affair.
Decoder make_decoder(bool bf16, const MaybeTensor& embedding, bool tied,
                     const std::optional<Join>& join, const std::vector<DecoderLayer>& layers,
                     const NormArgument& norm, const Packed& head, int64_t draft_tokens) {
  std::optional<Embedding> lookup;
  if (embedding) lookup = table_of(*embedding);
  if (tied) lookup = Embedding{head.first.data, true, head.second};
  Weights draft_head = weight_of(head, "head");
  kCheck.range(draft_tokens, "draft_tokens", 1, draft_head.layout.outputs);
  draft_head.layout.outputs = draft_tokens;
  return {.bf16 = bf16,
          .hidden_size = norm.first.numel(),
          .embedding = lookup,
          .join = join,
          .layers = layers,
          .norm = norm_of(norm),
          .head = weight_of(head, "head"),
          .draft_head = draft_head};
}

// Storage, head dims, the first positions a ring still holds (None: a global layer).
using Storage = std::tuple<Tensor, Tensor, int64_t, int64_t, MaybeTensor>;

CacheLayers make_caches(const std::vector<Storage>& layers, const Tensor& lengths,
                        int64_t max_tokens) {
  CacheLayers caches{{}, lengths, max_tokens};
  for (const auto& [keys, values, head_dim, v_head_dim, held_from] : layers)
    caches.layers.push_back({keys, values, head_dim, v_head_dim, held_from, {}, {}});
  return caches;
}

void step(const Decoder& d, const CacheLayers& caches, const Tensor& ids, const MaybeTensor& hidden,
          const MaybeTensor& cu_seqlens, const MaybeTensor& ancestors, const Tensor& x,
          const Tensor& staged, const MaybeTensor& routing, const MaybeTensor& logits, bool last,
          bool commit) {
  const Check check("forward");
  check.shape(ids, "ids", {kAny, kAny}, "[B, T]");
  const DType dtype = d.bf16 ? DType::bf16 : DType::f32;
  for (const auto& [tensor, name] : {std::pair{&x, "x"}, {hidden ? &*hidden : &x, "hidden"}}) {
    check.shape(*tensor, name, {ids.shape[0], ids.shape[1], d.hidden_size}, "[B, T, D]");
    check.dtype(*tensor, name, {dtype});
    check.contiguous(*tensor, name);
  }
  if (caches.layers.size() != d.layers.size())
    check.fail("cache", std::to_string(d.layers.size()) + " layers",
               std::to_string(caches.layers.size()));
  const py::gil_scoped_release release;
  const StepTokens tokens{ids, hidden, cu_seqlens, ancestors};
  run_step(check, d, caches, tokens, {x, staged, routing, logits}, last);
  if (commit) commit_all(Check("commit"), caches, tokens, staged);
}

void commit_step(const CacheLayers& caches, const Tensor& staged, const Tensor& cu_seqlens,
                 const MaybeTensor& rows, const MaybeTensor& ancestors) {
  const py::gil_scoped_release release;
  commit_staged(Check("commit"), caches, staged, cu_seqlens, rows, ancestors);
}

}  // namespace

void bind_model(py::module_& m) {
  // Each of these keeps what it was made of alive: they hold pointers into it.
  py::class_<AttentionWeights>(m, "AttentionWeights")
      .def(py::init(&make_attention), py::kw_only(), py::arg("qkv"), py::arg("o"),
           py::arg("q_heads"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("v_head_dim"),
           py::arg("theta"), py::arg("rotary_dim"), py::arg("value_scale"), py::arg("window_keys"),
           py::arg("sink"), py::keep_alive<1, 2>(), py::keep_alive<1, 3>(),
           py::keep_alive<1, 12>());
  py::class_<Router>(m, "RouterWeights")
      .def(py::init(&make_router), py::kw_only(), py::arg("proj"), py::arg("bias"),
           py::arg("top_k"), py::arg("n_group"), py::arg("topk_group"), py::arg("normalize"),
           py::arg("scaling"), py::keep_alive<1, 2>(), py::keep_alive<1, 3>());
  py::class_<DecoderLayer>(m, "DecoderLayer")
      .def(py::init(&make_layer), py::kw_only(), py::arg("before_attention"), py::arg("attention"),
           py::arg("before_mlp"), py::arg("gate_up"), py::arg("down"), py::arg("router"),
           py::keep_alive<1, 2>(), py::keep_alive<1, 3>(), py::keep_alive<1, 4>(),
           py::keep_alive<1, 5>(), py::keep_alive<1, 6>(), py::keep_alive<1, 7>());
  py::class_<Join>(m, "JoinWeights")
      .def(py::init(&make_join), py::kw_only(), py::arg("embedded"), py::arg("hidden"),
           py::arg("weight"), py::keep_alive<1, 2>(), py::keep_alive<1, 3>(),
           py::keep_alive<1, 4>());
  py::class_<CacheLayers>(m, "CacheLayers")
      .def(py::init(&make_caches), py::kw_only(), py::arg("layers"), py::arg("lengths"),
           py::arg("max_tokens"), py::keep_alive<1, 2>(), py::keep_alive<1, 3>())
      .def_property_readonly("staged_per_token", &CacheLayers::staged_per_token,
                             "Elements of one token's new keys and values in all layers.")
      .def("commit", &commit_step, py::arg("staged"), py::arg("cu_seqlens"), py::arg("rows"),
           py::arg("ancestors"));
  py::class_<Decoder>(m, "Decoder")
      .def(py::init(&make_decoder), py::kw_only(), py::arg("bf16"), py::arg("embedding"),
           py::arg("tied"), py::arg("join"), py::arg("layers"), py::arg("norm"), py::arg("head"),
           py::arg("draft_tokens"), py::keep_alive<1, 3>(), py::keep_alive<1, 5>(),
           py::keep_alive<1, 6>(), py::keep_alive<1, 7>(), py::keep_alive<1, 8>())
      .def("step", &step, py::arg("caches"), py::arg("ids"), py::arg("hidden"),
           py::arg("cu_seqlens"), py::arg("ancestors"), py::arg("x"), py::arg("staged"),
           py::arg("routing"), py::arg("logits"), py::arg("last"), py::arg("commit"));
  py::class_<Watch>(m, "Watch")
      .def(py::init<py::list, py::list, py::list>(), py::arg("entries"), py::arg("empty"),
           py::arg("tensors"))
      .def("unchanged", &Watch::unchanged);
}

}  // namespace mn
