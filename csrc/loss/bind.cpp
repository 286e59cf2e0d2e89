#include <pybind11/stl.h>

#include <cmath>
#include <optional>

#include "gemm/arguments.h"
#include "loss/run.h"
#include "runtime/module.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

namespace py = pybind11;

using MaybeTensor = std::optional<Tensor>;

// hidden [N, D] and a weight [V, D], plain or packed.
Head head_argument(const Check& check, const Tensor& x, const char* x_name, const Tensor& w,
                   const PackedLayout* layout, const char* w_name) {
  Head head{};
  head.w = weights_argument(check, w, layout, 0, w_name, "[V, D]");
  const PackedLayout& l = head.w.layout;
  if (l.outputs < 1 || l.inputs < 1)
    check.fail(w_name, "at least one id and one input", w.describe());
  check.shape(x, x_name, {kAny, l.inputs}, "[N, D]");
  head.x = rows_argument(check, x, x_name, l);
  return head;
}

Head teacher_argument(const Check& check, const MaybeTensor& x, const MaybeTensor& w,
                      const PackedLayout* layout, const Tensor& hidden, const Head& head) {
  if (!x || !w) return {};
  const Head teacher = head_argument(check, *x, "teacher_hidden", *w, layout, "teacher_weight");
  check.shape(*x, "teacher_hidden", {hidden.shape[0], kAny}, "[N, D']");
  if (teacher.w.layout.outputs != head.w.layout.outputs)
    check.fail("teacher_weight",
               "the student's vocabulary, " + std::to_string(head.w.layout.outputs), w->describe(),
               "Distil from a teacher with the same tokenizer.");
  return teacher;
}

template <class T>
T* buffer(const Check& check, const Tensor& t, const char* name, DType dtype,
          std::initializer_list<int64_t> shape) {
  check.shape(t, name, shape, "[N, ..]");
  check.dtype(t, name, {dtype});
  check.on_cpu(t, name);
  check.contiguous(t, name);
  return t.as<T>();
}

template <class T>
T* maybe(const Check& check, const MaybeTensor& t, const char* name, DType dtype,
         std::initializer_list<int64_t> shape) {
  return t ? buffer<T>(check, *t, name, dtype, shape) : nullptr;
}

// int64 [N, K] in the vocabulary. Where `none` is allowed, kNoId says that a row has no target.
constexpr int64_t kNoId = INT64_MIN;

void check_ids(const Check& check, const Tensor& ids, const char* name, int64_t rows, int64_t vocab,
               bool none) {
  const int64_t* values = buffer<int64_t>(check, ids, name, DType::i64, {rows, kAny});
  for (int64_t i = 0; i < ids.numel(); ++i)
    if (values[i] >= vocab || (values[i] < 0 && !(none && values[i] == kNoId)))
      check.fail(name, "ids in [0, " + std::to_string(vocab) + ")",
                 std::to_string(values[i]) + " at position " + std::to_string(i / ids.shape[1]),
                 "Use the tokenizer of this model, and ignore_index where there is no target.");
}

void loss_forward(const std::string& op, const Tensor& hidden, const Tensor& w,
                  const PackedLayout* layout, const MaybeTensor& teacher_hidden,
                  const MaybeTensor& teacher_w, const PackedLayout* teacher_layout,
                  const Tensor& ids, double temperature, const Tensor& row_stats,
                  const MaybeTensor& teacher_row_stats, const Tensor& logprobs,
                  const MaybeTensor& entropy, const MaybeTensor& divergence,
                  const MaybeTensor& kept, const MaybeTensor& chunk_largest) {
  const Check check(op.c_str());
  LossForward p{};
  p.head = head_argument(check, hidden, "hidden", w, layout, "weight");
  p.teacher = teacher_argument(check, teacher_hidden, teacher_w, teacher_layout, hidden, p.head);
  p.count = hidden.shape[0];
  const bool targets = op == "linear_cross_entropy";
  check_ids(check, ids, targets ? "targets" : "ids", p.count, p.head.w.layout.outputs, targets);
  p.temperature = static_cast<float>(temperature);
  if (!(p.temperature > 0 && std::isfinite(p.temperature)))
    check.fail("temperature", "a finite number > 0", std::to_string(temperature));
  p.ids = ids.as<int64_t>();
  p.ids_per_row = ids.shape[1];
  p.row_stats = buffer<RowStat>(check, row_stats, "row_stats", DType::f64, {p.count, 2});
  p.teacher_row_stats =
      maybe<RowStat>(check, teacher_row_stats, "teacher_row_stats", DType::f64, {p.count, 2});
  p.logprobs = buffer<float>(check, logprobs, "logprobs", DType::f32, {p.count, p.ids_per_row});
  p.entropy = maybe<float>(check, entropy, "entropy", DType::f32, {p.count});
  p.divergence = maybe<float>(check, divergence, "divergence", DType::f32, {p.count});
  if (kept && chunk_largest) {
    const PackedLayout& l = p.head.w.layout;
    p.kept = buffer<void>(check, *kept, "kept", w.dtype, {l.outputs, l.inputs});
    p.kept_rows = kept_rows(p.count, l.inputs);
    p.chunk_largest = buffer<float>(check, *chunk_largest, "chunk_largest", DType::f32,
                                    {softmax_chunks(l.outputs), p.count});
  }
  const py::gil_scoped_release release;
  run_loss_forward(p);
}

void loss_backward(const Tensor& hidden, const Tensor& w, const PackedLayout* layout,
                   const MaybeTensor& teacher_hidden, const MaybeTensor& teacher_w,
                   const PackedLayout* teacher_layout, double scale, const Tensor& rows,
                   const MaybeTensor& teacher_top, const Tensor& ids, const Tensor& id_grads,
                   const MaybeTensor& dx, const MaybeTensor& dw, const MaybeTensor& chunk_largest) {
  const Check check("loss_backward");
  LossBackward p{};
  p.head = head_argument(check, hidden, "hidden", w, layout, "weight");
  p.teacher = teacher_argument(check, teacher_hidden, teacher_w, teacher_layout, hidden, p.head);
  const PackedLayout& l = p.head.w.layout;
  if (l.coded()) check.fail("weight", "plain values", "codes", "Unpack the weight.");
  const DType dtype = l.format == Format::bf16 ? DType::bf16 : DType::f32;
  check.dtype(hidden, "hidden", {dtype});
  p.count = hidden.shape[0];
  p.scale = static_cast<float>(scale);
  p.rows = buffer<RowGradient>(check, rows, "rows", DType::f32, {p.count, 4});
  p.teacher_top = maybe<float>(check, teacher_top, "teacher_top", DType::f32, {p.count});
  check_ids(check, ids, "ids", p.count, l.outputs, true);
  p.ids = ids.as<int64_t>();
  p.ids_per_row = ids.shape[1];
  p.id_grads = buffer<float>(check, id_grads, "id_grads", DType::f32, {p.count, p.ids_per_row});
  if (dx && dtype == DType::bf16)
    p.dx_bf16 = buffer<void>(check, *dx, "dx", dtype, {p.count, l.inputs});
  else
    p.dx = maybe<float>(check, dx, "dx", dtype, {p.count, l.inputs});
  p.dw = maybe<void>(check, dw, "dw", dtype, {l.outputs, l.inputs});
  if (chunk_largest && p.dw) {
    p.chunk_largest = buffer<float>(check, *chunk_largest, "chunk_largest", DType::f32,
                                    {softmax_chunks(l.outputs), p.count});
    p.kept_rows = kept_rows(p.count, l.inputs);
  }
  const py::gil_scoped_release release;
  run_loss_backward(p);
}

}  // namespace

void bind_loss(py::module_& m) {
  m.def("loss_forward", &loss_forward, py::arg("op"), py::arg("hidden"), py::arg("w"),
        py::arg("layout").none(true), py::arg("teacher_hidden").none(true),
        py::arg("teacher_w").none(true), py::arg("teacher_layout").none(true), py::arg("ids"),
        py::arg("temperature"), py::arg("row_stats"), py::arg("teacher_row_stats").none(true),
        py::arg("logprobs"), py::arg("entropy").none(true), py::arg("divergence").none(true),
        py::arg("kept").none(true), py::arg("chunk_largest").none(true));
  m.def("loss_backward", &loss_backward, py::arg("hidden"), py::arg("w"),
        py::arg("layout").none(true), py::arg("teacher_hidden").none(true),
        py::arg("teacher_w").none(true), py::arg("teacher_layout").none(true), py::arg("scale"),
        py::arg("rows"), py::arg("teacher_top").none(true), py::arg("ids"), py::arg("id_grads"),
        py::arg("dx").none(true), py::arg("dw").none(true), py::arg("chunk_largest").none(true));
}

}  // namespace mn
