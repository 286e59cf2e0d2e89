#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "attention/cached.h"
#include "runtime/module.h"
#include "runtime/new_tensor.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

using OptionalTensor = std::optional<Tensor>;

// What an op returns: out and, where it is wanted, lse.
using Returned = std::pair<NewTensor, std::optional<NewTensor>>;

// out and lse of a call whose tensors have been checked, which it sees from here on.
Returned make_outputs(const Tensor& q, const Tensor& v, bool want_lse, Tensor& out,
                      OptionalTensor& lse) {
  const int n = q.ndim;
  std::array<int64_t, Tensor::kMaxDims> shape{};
  std::copy_n(q.shape, n - 1, shape.begin());
  shape[static_cast<size_t>(n - 1)] = v.last();
  Returned made{new_tensor(q, q.dtype, std::span(shape.data(), static_cast<size_t>(n))), {}};
  out = made.first.view;
  if (want_lse) {
    // [B, T, Hq, D] -> [B, Hq, T], [N, Hq, D] -> [Hq, N].
    shape[static_cast<size_t>(n - 3)] = q.shape[n - 2];
    shape[static_cast<size_t>(n - 2)] = q.shape[n - 3];
    made.second = new_tensor(q, DType::f32, std::span(shape.data(), static_cast<size_t>(n - 1)));
    lse = made.second->view;
  }
  return made;
}

Returned attention(const Tensor& q, const Tensor& k, const Tensor& v, std::optional<double> scale,
                   bool causal, std::optional<int64_t> window_keys, const OptionalTensor& sink,
                   const OptionalTensor& kv_lens, bool want_lse) {
  const Check check("attention");
  check.shape(q, "q", {kAny, kAny, kAny, kAny}, "[B, T, Hq, Dqk]");
  Tensor out;
  OptionalTensor lse;
  AttentionCall call(check, {q, k, v, out, lse, sink}, {scale, causal, window_keys});
  const int64_t batch = q.shape[0], tokens = q.shape[1];
  std::vector<int64_t> lens(static_cast<size_t>(batch), k.shape[1]);
  if (kv_lens) lens = read_integers(check, *kv_lens, "kv_lens", batch, "[B]");
  for (const int64_t keys : lens) check.range(keys, "kv_lens", 0, k.shape[1]);
  Returned made = make_outputs(q, v, want_lse, out, lse);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t keys = lens[static_cast<size_t>(b)];
    call.add_sequence(b, 0, tokens, keys - tokens, keys);
    call.add_task(b, 0, keys, 0);
    call.give_blocks(1, blocks_for(keys));
  }
  const pybind11::gil_scoped_release release;
  call.run();
  return made;
}

Returned attention_varlen(const Tensor& q, const Tensor& k, const Tensor& v,
                          const Tensor& cu_seqlens_q, const Tensor& cu_seqlens_k,
                          std::optional<double> scale, bool causal,
                          std::optional<int64_t> window_keys, const OptionalTensor& sink,
                          bool want_lse) {
  const Check check("attention_varlen");
  check.shape(q, "q", {kAny, kAny, kAny}, "[N, Hq, Dqk]");
  Tensor out;
  OptionalTensor lse;
  AttentionCall call(check, {q, k, v, out, lse, sink}, {scale, causal, window_keys});
  const std::vector<int64_t> q_edges = read_edges(check, cu_seqlens_q, "cu_seqlens_q", q.shape[0]);
  const std::vector<int64_t> k_edges = read_edges(check, cu_seqlens_k, "cu_seqlens_k", k.shape[0]);
  if (q_edges.size() != k_edges.size())
    check.fail("cu_seqlens_k", std::to_string(q_edges.size() - 1) + " documents, as cu_seqlens_q",
               std::to_string(k_edges.size() - 1) + " documents");
  Returned made = make_outputs(q, v, want_lse, out, lse);
  for (size_t d = 0; d + 1 < q_edges.size(); ++d) {
    const int64_t tokens = q_edges[d + 1] - q_edges[d], keys = k_edges[d + 1] - k_edges[d];
    call.add_sequence(0, q_edges[d], tokens, keys - tokens, keys);
    call.add_task(0, k_edges[d], keys, 0);
    call.give_blocks(1, blocks_for(keys));
  }
  const pybind11::gil_scoped_release release;
  call.run();
  return made;
}

void bind_cached(const Tensor& q, const Tensor& k_new, const Tensor& v_new,
                 const Tensor& cache_keys, const Tensor& cache_values, int64_t head_dim,
                 int64_t v_head_dim, const Tensor& lengths, bool ring, const Tensor& out,
                 const OptionalTensor& lse, const OptionalTensor& cu_seqlens_q,
                 const OptionalTensor& q_positions, const OptionalTensor& ancestors,
                 std::optional<double> scale, std::optional<int64_t> window_keys,
                 const OptionalTensor& sink) {
  const pybind11::gil_scoped_release release;
  attention_cached(Check("attention_cached"), {q, k_new, v_new, out, lse, sink, "k_new", "v_new"},
                   {cache_keys, cache_values, head_dim, v_head_dim, lengths, ring},
                   {cu_seqlens_q, q_positions, ancestors}, {scale, true, window_keys});
}

}  // namespace

void bind_attention(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("scale"),
        py::arg("causal"), py::arg("window_keys"), py::arg("sink"), py::arg("kv_lens"),
        py::arg("want_lse"));
  m.def("attention_varlen", &attention_varlen, py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("scale"), py::arg("causal"),
        py::arg("window_keys"), py::arg("sink"), py::arg("want_lse"));
  m.def("attention_cached", &bind_cached, py::arg("q"), py::arg("k_new"), py::arg("v_new"),
        py::arg("cache_keys"), py::arg("cache_values"), py::arg("head_dim"), py::arg("v_head_dim"),
        py::arg("lengths"), py::arg("ring"), py::arg("out"), py::arg("lse"),
        py::arg("cu_seqlens_q"), py::arg("q_positions"), py::arg("ancestors"), py::arg("scale"),
        py::arg("window_keys"), py::arg("sink"));
}

}  // namespace mn
