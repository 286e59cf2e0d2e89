#include <pybind11/stl.h>

#include <optional>

#include "gemm/arguments.h"
#include "gemm/codes.h"
#include "gemm/run.h"
#include "runtime/module.h"
#include "runtime/new_tensor.h"
#include "runtime/scratch.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

namespace py = pybind11;

PackedLayout make_layout(const std::string& format, int64_t experts, int64_t outputs,
                         int64_t inputs, int64_t expert_panels) {
  const Check check("PackedLayout");
  int index = 0;
  while (index < kFormats && format != kFormatNames[index]) ++index;
  if (index == kFormats) check.fail("format", "the name of a format", format);
  return {.format = static_cast<Format>(index),
          .experts = experts,
          .outputs = outputs,
          .inputs = inputs,
          .expert_panels = expert_panels};
}

PackProblem pack_problem(const Check& check, const Tensor& weight, const Tensor& storage,
                         const PackedLayout& layout) {
  const Weights plain = weights_argument(check, weight, nullptr, 1, "weight", "[E, N, K]");
  const PackedLayout& got = plain.layout;
  if (got.experts != layout.experts || got.outputs != layout.outputs ||
      got.inputs != layout.inputs || got.format != layout.format)
    check.fail("weight", "the shape and dtype of the layout", weight.describe());
  weights_argument(check, storage, &layout, 1, "storage", "bytes");
  return {.layout = layout,
          .packed = storage.as<char>(),
          .weight = weight.data,
          .expert_stride = plain.expert_stride,
          .row_stride = plain.row_stride};
}

void pack(const Tensor& weight, const Tensor& storage, const PackedLayout& layout) {
  const PackProblem problem = pack_problem(Check("pack"), weight, storage, layout);
  const py::gil_scoped_release release;
  gemm_kernels_for_isa().pack[static_cast<int>(layout.format)](problem);
}

void unpack(const Tensor& storage, const PackedLayout& layout, const Tensor& weight) {
  const PackProblem problem = pack_problem(Check("unpack"), weight, storage, layout);
  const py::gil_scoped_release release;
  gemm_kernels_for_isa().unpack[static_cast<int>(layout.format)](problem);
}

// Codes, scales and mins beside the storage that they come from or go to.
CodesProblem codes_problem(const Check& check, const Tensor& storage, const PackedLayout& layout,
                           const Tensor& codes, const Tensor& scales,
                           const std::optional<Tensor>& mins, int64_t rows) {
  if (!layout.coded()) check.fail("layout", "a format of codes", "plain values");
  weights_argument(check, storage, &layout, 1, "storage", "bytes");
  const Coding coding = coding_of(layout.format);
  const int64_t segments = coding.segments(layout.inputs);
  check.shape(codes, "codes", {rows, layout.inputs}, "[rows, K]");
  if (size_of(codes.dtype) != 1) check.fail("codes", "one byte per code", codes.describe());
  const auto check_scales = [&](const Tensor& t, const char* name) {
    check.shape(t, name, {rows, segments}, "[rows, segments]");
    check.on_cpu(t, name);
    check.contiguous(t, name);
    if (size_of(t.dtype) != scale_bytes(layout.format))
      check.fail(name, std::to_string(scale_bytes(layout.format)) + " bytes each", t.describe());
  };
  check.on_cpu(codes, "codes");
  check.contiguous(codes, "codes");
  check_scales(scales, "scales");
  if (mins.has_value() != coding.has_min)
    check.fail("mins", coding.has_min ? "a tensor" : "none", mins ? "a tensor" : "none");
  if (mins) check_scales(*mins, "mins");
  return {.layout = layout,
          .packed = storage.as<char>(),
          .codes = codes.as<uint8_t>(),
          .scales = scales.as<char>(),
          .mins = mins ? mins->as<char>() : nullptr,
          .index = nullptr,
          .rows = rows};
}

void bind_pack_codes(const Tensor& codes, const Tensor& scales, const std::optional<Tensor>& mins,
                     const Tensor& storage, const PackedLayout& layout) {
  const CodesProblem problem = codes_problem(Check("pack"), storage, layout, codes, scales, mins,
                                             layout.experts * layout.outputs);
  const py::gil_scoped_release release;
  pack_codes(problem);
}

// Of every row, or of the rows [n] given of a matrix.
void bind_unpack_codes(const Tensor& storage, const PackedLayout& layout,
                       const std::optional<Tensor>& rows, const Tensor& codes, const Tensor& scales,
                       const std::optional<Tensor>& mins) {
  const Check check("unpack");
  const int64_t count = rows ? rows->numel() : layout.experts * layout.outputs;
  CodesProblem problem = codes_problem(check, storage, layout, codes, scales, mins, count);
  if (rows) {
    check.dtype(*rows, "rows", {DType::i64});
    check.on_cpu(*rows, "rows");
    check.contiguous(*rows, "rows");
    problem.index = rows->as<int64_t>();
    for (int64_t i = 0; i < count; ++i)
      check.range(problem.index[i], "rows", 0, layout.outputs - 1);
  }
  const py::gil_scoped_release release;
  unpack_codes(problem);
}

// Also where a row has no elements.
int64_t row_count(const Tensor& x) {
  int64_t count = 1;
  for (int i = 0; i < x.ndim - 1; ++i) count *= x.shape[i];
  return count;
}

void check_result(const Check& check, const Tensor& y) {
  check.on_cpu(y, "out");
  check.contiguous(y, "out");
  check.dtype(y, "out_dtype", {DType::f32, DType::bf16});
}

NewTensor linear(const Tensor& x, const Tensor& w, const PackedLayout* layout,
                 const std::optional<std::string>& out_dtype) {
  const Check check("linear");
  const Weights weights = weights_argument(check, w, layout, 0, "w", "[N, K]");
  const RowSource rows = rows_argument(check, x, "x", weights.layout);
  const DType dtype = result_dtype(check, x, out_dtype);
  const int64_t count = row_count(x);
  NewTensor y = new_tensor_of_rows(x, dtype, weights.layout.outputs);
  const py::gil_scoped_release release;
  run_gemm(rows, weights, &count, 1, y.view.data, dtype == DType::bf16);
  return y;
}

NewTensor grouped_gemm(const Tensor& x, const Tensor& w, const PackedLayout* layout,
                       const Tensor& group_sizes) {
  const Check check("grouped_gemm");
  const Weights weights = weights_argument(check, w, layout, 1, "w", "[G, N, K]");
  check.shape(x, "x", {kAny, weights.layout.inputs}, "[M, K]");
  const RowSource rows = rows_argument(check, x, "x", weights.layout);
  const std::vector<int64_t> sizes =
      group_sizes_argument(check, group_sizes, weights.layout.experts, x.shape[0]);
  NewTensor y = new_tensor_of_rows(x, x.dtype, weights.layout.outputs);
  const py::gil_scoped_release release;
  run_gemm(rows, weights, sizes.data(), weights.layout.experts, y.view.data, rows.bf16);
  return y;
}

// dx = dy W, per group where `group_sizes` is given.
void input_grad(const Tensor& dy, const Tensor& w, const std::optional<Tensor>& group_sizes,
                const Tensor& dx) {
  const Check check("input_grad");
  const int matrices = group_sizes ? 1 : 0;
  const Weights weights =
      transposed(weights_argument(check, w, nullptr, matrices, "w", "[G, N, K] or [N, K]"));
  const RowSource rows = rows_argument(check, dy, "dy", weights.layout);
  check_result(check, dx);
  std::vector<int64_t> sizes{row_count(dy)};
  if (group_sizes)
    sizes = group_sizes_argument(check, *group_sizes, weights.layout.experts, sizes[0]);
  const py::gil_scoped_release release;
  run_gemm(rows, weights, sizes.data(), static_cast<int64_t>(sizes.size()), dx.data,
           dx.dtype == DType::bf16);
}

// dw = dy^T x, per group where `group_sizes` is given.
void weight_grad(const Tensor& dy, const Tensor& x, const std::optional<Tensor>& group_sizes,
                 const Tensor& dw) {
  const Check check("weight_grad");
  check.dtype(x, "x", {DType::f32, DType::bf16});
  const bool bf16 = x.dtype == DType::bf16;
  const Format format = bf16 ? Format::bf16 : Format::f32;
  check.same_dtype(dy, "dy", x, "x");
  const RowSource dy_rows = rows_argument(check, dy, "dy", {format, 1, 0, dy.last(), 0});
  const RowSource x_rows = rows_argument(check, x, "x", {format, 1, 0, x.last(), 0});
  check_result(check, dw);
  const int64_t count = row_count(x);
  if (row_count(dy) != count)
    check.fail("dy", "as many rows as x, " + std::to_string(count), dy.describe());
  std::vector<int64_t> sizes{count};
  if (group_sizes) sizes = group_sizes_argument(check, *group_sizes, group_sizes->numel(), count);
  check.shape(dw, "dw", {kAny, dy.last(), x.last()}, "[G, N, K]");
  const py::gil_scoped_release release;
  run_weight_grad(dy_rows, x_rows, sizes, dy.last(), x.last(), format, dw.data,
                  dw.dtype == DType::bf16);
}

}  // namespace

void bind_gemm(py::module_& m) {
  py::class_<PackedLayout>(m, "PackedLayout")
      .def(py::init(&make_layout), py::arg("format"), py::arg("experts"), py::arg("outputs"),
           py::arg("inputs"), py::arg("expert_panels"))
      .def_property_readonly("bytes", &PackedLayout::bytes)
      .def_readonly("expert_panels", &PackedLayout::expert_panels)
      .def_property_readonly("panel_bytes", &PackedLayout::panel_bytes);
  m.def("pack", &pack, py::arg("weight"), py::arg("storage"), py::arg("layout"));
  m.def("unpack", &unpack, py::arg("storage"), py::arg("layout"), py::arg("weight"));
  m.def("pack_codes", &bind_pack_codes, py::arg("codes"), py::arg("scales"),
        py::arg("mins").none(true), py::arg("storage"), py::arg("layout"));
  m.def("unpack_codes", &bind_unpack_codes, py::arg("storage"), py::arg("layout"),
        py::arg("rows").none(true), py::arg("codes"), py::arg("scales"),
        py::arg("mins").none(true));
  m.def("linear", &linear, py::arg("x"), py::arg("w"), py::arg("layout").none(true),
        py::arg("out_dtype").none(true));
  m.def("grouped_gemm", &grouped_gemm, py::arg("x"), py::arg("w"), py::arg("layout").none(true),
        py::arg("group_sizes"));
  m.def("input_grad", &input_grad, py::arg("dy"), py::arg("w"), py::arg("group_sizes").none(true),
        py::arg("dx"));
  m.def("weight_grad", &weight_grad, py::arg("dy"), py::arg("x"), py::arg("group_sizes").none(true),
        py::arg("dw"));
  m.def("release_scratch", &release_scratch,
        "Frees the calling thread's working memory, and what is kept for large tensors.");
}

}  // namespace mn
