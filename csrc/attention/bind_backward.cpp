// Bindings of the gradients of attention and attention_varlen.
#include <omp.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "attention/backward_plan.h"
#include "attention/call.h"
#include "runtime/module.h"
#include "runtime/new_tensor.h"
#include "runtime/scratch.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

using OptionalTensor = std::optional<Tensor>;

struct Upstream {
  const Tensor& dout;
  const OptionalTensor& dlse;
};
// dq, dk, dv and, where it is wanted, dsink.
using Gradients = std::tuple<NewTensor, NewTensor, NewTensor, std::optional<NewTensor>>;

char* element(const Tensor& t, int64_t at) { return t.as<char>() + at * size_of(t.dtype); }
int64_t token_stride(const Tensor& t) { return t.stride[t.ndim - 3]; }
int64_t head_stride(const Tensor& t) { return t.stride[t.ndim - 2]; }

void same_shape(const Check& check, const Tensor& t, const char* argument, const Tensor& other,
                const char* other_argument, int dims) {
  bool same = t.ndim == other.ndim;
  for (int i = 0; same && i < dims; ++i) same = t.shape[i] == other.shape[i];
  if (!same)
    check.fail(argument, std::string("the sizes of ") + other_argument + ", " + other.describe(),
               t.describe());
}

// A tensor that the op itself made: dense, of the sizes of `like`.
void check_dense(const Check& check, const Tensor& t, const char* argument, const Tensor& like,
                 const char* like_argument) {
  same_shape(check, t, argument, like, like_argument, like.ndim);
  check.same_dtype(t, argument, like, like_argument);
  check.on_cpu(t, argument);
  check.contiguous(t, argument);
}

class BackwardCall {
 public:
  BackwardCall(const Check& check, const AttentionTensors& tensors, const AttentionOptions& options,
               const Upstream& up)
      : forward_(check, tensors, options), t_(tensors), up_(up) {
    same_shape(check, t_.out, "out", t_.q, "q", t_.q.ndim - 1);
    check.contiguous(t_.out, "out");
    same_shape(check, up_.dout, "dout", t_.out, "out", t_.out.ndim);
    check.same_dtype(up_.dout, "dout", t_.q, "q");
    check.on_cpu(up_.dout, "dout");
    check.last_dim_contiguous(up_.dout, "dout");
    check.contiguous(*t_.lse, "lse");
    check.dtype(*t_.lse, "lse", {DType::f32});
    if (up_.dlse) check_dense(check, *up_.dlse, "dlse", *t_.lse, "lse");
    const AttentionProblem& f = forward_.problem;
    p_.q_heads = f.q_heads;
    p_.kv_heads = f.kv_heads;
    p_.dim_qk = f.layout.dim_qk;
    p_.dim_v = f.layout.dim_v;
    p_.padded_qk = (p_.dim_qk + 15) / 16 * 16;
    p_.padded_v = (p_.dim_v + 15) / 16 * 16;
    p_.q_token_stride = f.q_token_stride;
    p_.q_head_stride = f.q_head_stride;
    p_.k_token_stride = token_stride(t_.k);
    p_.k_head_stride = head_stride(t_.k);
    p_.v_token_stride = token_stride(t_.v);
    p_.v_head_stride = head_stride(t_.v);
    p_.dout_token_stride = token_stride(up_.dout);
    p_.dout_head_stride = head_stride(up_.dout);
    p_.lse_head_stride = f.lse_head_stride;
    p_.window = f.window;
    p_.causal = f.causal;
    p_.scale = f.scale;
    p_.sink = f.sink;
  }

  // Once everything has been checked, and before sequences are added.
  Gradients make_gradients(bool want_sink) {
    Gradients made{new_tensor_like(t_.q), new_tensor_like(t_.k), new_tensor_like(t_.v), {}};
    dq_ = std::get<0>(made).view;
    dk_ = std::get<1>(made).view;
    dv_ = std::get<2>(made).view;
    if (want_sink) {
      std::get<3>(made) = new_tensor(t_.q, DType::f32, {p_.q_heads});
      p_.dsink = std::get<3>(made)->view.as<float>();
    }
    return made;
  }

  // Queries [token, token + tokens) and keys [key, key + keys), of key_rows that there are, of a
  // row (0 for packed calls); the last query stands at the last key.
  void add_sequence(int64_t row, int64_t token, int64_t tokens, int64_t key, int64_t keys,
                    int64_t key_rows) {
    const bool dense = t_.q.ndim == 4;
    BackwardSequence s{};
    const auto strided = [&](const Tensor& t, int64_t at) {
      return element(t, (dense ? row * t.stride[0] : 0) + at * token_stride(t));
    };
    const auto packed = [&](const Tensor& t, int64_t at) {
      const int64_t tokens_before = (dense ? row * t.shape[1] : 0) + at;
      return element(t, tokens_before * t.shape[t.ndim - 2] * t.last());
    };
    const int64_t lse_at = (dense ? row * p_.q_heads * t_.q.shape[1] : 0) + token;
    s.q = strided(t_.q, token);
    s.k = strided(t_.k, key);
    s.v = strided(t_.v, key);
    s.dout = strided(up_.dout, token);
    s.out = packed(t_.out, token);
    s.lse = t_.lse->as<float>() + lse_at;
    if (up_.dlse) s.dlse = up_.dlse->as<float>() + lse_at;
    s.dq = packed(dq_, token);
    s.dk = packed(dk_, key);
    s.dv = packed(dv_, key);
    s.tokens = tokens;
    s.first_position = keys - tokens;
    s.keys = keys;
    s.key_rows = key_rows;
    s.first_block = blocks_;
    blocks_ += p_.kv_heads * blocks_for(keys);
    p_.max_key_rows = std::max(p_.max_key_rows, key_rows);
    sequences_.push_back(s);
  }

  void run() {
    const AttentionBackwardKernels& kernels = attention_backward_kernels_for_isa();
    const pybind11::gil_scoped_release release;
    const bool bf16 = t_.q.dtype == DType::bf16;
    const BackwardPlan plan = plan_backward(p_, sequences_);
    p_.sequences = sequences_.data();
    p_.sequence_count = static_cast<int64_t>(sequences_.size());
    p_.jobs = plan.jobs.data();
    p_.job_count = static_cast<int64_t>(plan.jobs.size());
    p_.tile_rows = plan.tile_rows;
    p_.scratch_bytes = (bf16 ? kernels.scratch_bytes_bf16 : kernels.scratch_bytes_f32)(p_);

    const int64_t rows = blocks_ * kBlockKeys * (bf16 ? 2 : 4);
    const int threads = omp_get_max_threads();
    ScratchPlan parts;
    const int64_t keys_at = parts.add(rows * p_.padded_qk);
    const int64_t pairs_at = bf16 ? parts.add(rows * p_.padded_qk) : keys_at;
    const int64_t values_at = parts.add(rows * p_.padded_v);
    const int64_t partial_at = parts.add(plan.partial_floats * 4);
    const int64_t sinks_at = parts.add(p_.job_count * (p_.q_heads / p_.kv_heads) * 8);
    const int64_t threads_at = parts.add(p_.scratch_bytes * threads);
    char* const memory = scratch(parts.total());
    p_.key_rows = memory + keys_at;
    p_.key_pairs = memory + pairs_at;
    p_.value_rows = memory + values_at;
    p_.partial = reinterpret_cast<float*>(memory + partial_at);
    p_.sink_partial = reinterpret_cast<double*>(memory + sinks_at);
    p_.scratch = memory + threads_at;
    (bf16 ? kernels.run_bf16 : kernels.run_f32)(p_);
  }

 private:
  AttentionCall forward_;
  AttentionTensors t_;
  Upstream up_;
  Tensor dq_, dk_, dv_;
  BackwardProblem p_{};
  std::vector<BackwardSequence> sequences_;
  int64_t blocks_ = 0;
};

Gradients attention_backward(const Tensor& dout, const OptionalTensor& dlse, const Tensor& q,
                             const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                             std::optional<double> scale, bool causal,
                             std::optional<int64_t> window_keys, const OptionalTensor& sink,
                             const OptionalTensor& kv_lens, bool want_dsink) {
  const Check check("attention_backward");
  check.shape(q, "q", {kAny, kAny, kAny, kAny}, "[B, T, Hq, Dqk]");
  check.shape(lse, "lse", {q.shape[0], q.shape[2], q.shape[1]}, "[B, Hq, T]");
  const OptionalTensor saved(lse);
  BackwardCall call(check, {q, k, v, out, saved, sink}, {scale, causal, window_keys}, {dout, dlse});
  std::vector<int64_t> lens(static_cast<size_t>(q.shape[0]), k.shape[1]);
  if (kv_lens) lens = read_integers(check, *kv_lens, "kv_lens", q.shape[0], "[B]");
  for (const int64_t keys : lens) check.range(keys, "kv_lens", 0, k.shape[1]);
  Gradients made = call.make_gradients(want_dsink && sink);
  for (int64_t b = 0; b < q.shape[0]; ++b)
    call.add_sequence(b, 0, q.shape[1], 0, lens[static_cast<size_t>(b)], k.shape[1]);
  call.run();
  return made;
}

Gradients attention_varlen_backward(const Tensor& dout, const OptionalTensor& dlse, const Tensor& q,
                                    const Tensor& k, const Tensor& v, const Tensor& out,
                                    const Tensor& lse, const Tensor& cu_seqlens_q,
                                    const Tensor& cu_seqlens_k, std::optional<double> scale,
                                    bool causal, std::optional<int64_t> window_keys,
                                    const OptionalTensor& sink, bool want_dsink) {
  const Check check("attention_varlen_backward");
  check.shape(q, "q", {kAny, kAny, kAny}, "[N, Hq, Dqk]");
  check.shape(lse, "lse", {q.shape[1], q.shape[0]}, "[Hq, N]");
  const OptionalTensor saved(lse);
  BackwardCall call(check, {q, k, v, out, saved, sink}, {scale, causal, window_keys}, {dout, dlse});
  const std::vector<int64_t> q_edges = read_edges(check, cu_seqlens_q, "cu_seqlens_q", q.shape[0]);
  const std::vector<int64_t> k_edges = read_edges(check, cu_seqlens_k, "cu_seqlens_k", k.shape[0]);
  if (q_edges.size() != k_edges.size())
    check.fail("cu_seqlens_k", std::to_string(q_edges.size() - 1) + " documents, as cu_seqlens_q",
               std::to_string(k_edges.size() - 1) + " documents");
  Gradients made = call.make_gradients(want_dsink && sink);
  for (size_t d = 0; d + 1 < q_edges.size(); ++d) {
    const int64_t keys = k_edges[d + 1] - k_edges[d];
    call.add_sequence(0, q_edges[d], q_edges[d + 1] - q_edges[d], k_edges[d], keys, keys);
  }
  call.run();
  return made;
}

}  // namespace

void bind_attention_backward(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("attention_backward", &attention_backward, py::arg("dout"), py::arg("dlse"), py::arg("q"),
        py::arg("k"), py::arg("v"), py::arg("out"), py::arg("lse"), py::arg("scale"),
        py::arg("causal"), py::arg("window_keys"), py::arg("sink"), py::arg("kv_lens"),
        py::arg("want_dsink"));
  m.def("attention_varlen_backward", &attention_varlen_backward, py::arg("dout"), py::arg("dlse"),
        py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"), py::arg("lse"),
        py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("scale"), py::arg("causal"),
        py::arg("window_keys"), py::arg("sink"), py::arg("want_dsink"));
}

}  // namespace mn
