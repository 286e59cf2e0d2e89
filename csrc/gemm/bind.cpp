#include <omp.h>

#include <cstring>

#include "gemm/arguments.h"
#include "gemm/plan.h"
#include "runtime/module.h"
#include "runtime/scratch.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

namespace py = pybind11;

PackedLayout make_layout(const std::string& format, int64_t experts, int64_t outputs,
                         int64_t inputs, int64_t expert_panels) {
  return {.format = format == "bf16" ? Format::bf16 : Format::f32,
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

void check_result(const Check& check, const Tensor& y) {
  check.on_cpu(y, "out");
  check.contiguous(y, "out");
  check.dtype(y, "out_dtype", {DType::f32, DType::bf16});
}

void run(const RowSource& x, const Weights& w, const int64_t* group_sizes, int64_t groups,
         const Tensor& y) {
  const int format = static_cast<int>(w.layout.format);
  const GemmKernels& kernels = gemm_kernels_for_isa();
  const RowPlan plan = plan_rows(group_sizes, groups, kernels.tile_rows[format]);
  if (plan.rows == 0 || w.layout.outputs == 0) return;
  if (w.layout.inputs == 0) {
    std::memset(y.data, 0, static_cast<size_t>(y.numel() * size_of(y.dtype)));
    return;
  }
  const int threads = omp_get_max_threads();
  const bool dense_row = plan.rows == 1 && w.layout.inputs % w.layout.depth() == 0 &&
                         x.bf16 == (w.layout.format == Format::bf16);
  ScratchPlan parts;
  const int64_t value_bytes = w.layout.format == Format::bf16 ? 2 : 4;
  const int64_t rows_bytes =
      dense_row ? 0 : plan.rows * w.layout.steps() * w.layout.depth() * value_bytes;
  const int64_t rows_at = parts.add(rows_bytes);
  const int64_t per_thread =
      (gemm_thread_scratch(w.layout, plan.most_rows, w.packed) + 127) / 128 * 128;
  const int64_t threads_at = parts.add(per_thread * threads);
  char* base = scratch(parts.total());
  kernels.multiply[format]({.x = x,
                            .rows = plan.view(),
                            .w = w,
                            .y = y.data,
                            .y_stride = w.layout.outputs,
                            .y_bf16 = y.dtype == DType::bf16,
                            .packed_rows = dense_row ? nullptr : base + rows_at,
                            .panels_per_job = plan_panels_per_job(w.layout.panels(), plan, threads),
                            .threads = threads,
                            .thread_scratch = base + threads_at,
                            .thread_scratch_bytes = per_thread});
}

void linear(const Tensor& x, const Tensor& w, const PackedLayout* layout, const Tensor& y) {
  const Check check("linear");
  const Weights weights = weights_argument(check, w, layout, 0, "w", "[N, K]");
  const RowSource rows = rows_argument(check, x, "x", weights.layout);
  check_result(check, y);
  int64_t count = 1;
  for (int i = 0; i < x.ndim - 1; ++i) count *= x.shape[i];
  const py::gil_scoped_release release;
  run(rows, weights, &count, 1, y);
}

void grouped_gemm(const Tensor& x, const Tensor& w, const PackedLayout* layout,
                  const Tensor& group_sizes, const Tensor& y) {
  const Check check("grouped_gemm");
  const Weights weights = weights_argument(check, w, layout, 1, "w", "[G, N, K]");
  check.shape(x, "x", {kAny, weights.layout.inputs}, "[M, K]");
  const RowSource rows = rows_argument(check, x, "x", weights.layout);
  const std::vector<int64_t> sizes =
      group_sizes_argument(check, group_sizes, weights.layout.experts, x.shape[0]);
  check_result(check, y);
  const py::gil_scoped_release release;
  run(rows, weights, sizes.data(), weights.layout.experts, y);
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
  m.def("linear", &linear, py::arg("x"), py::arg("w"), py::arg("layout").none(true), py::arg("y"));
  m.def("grouped_gemm", &grouped_gemm, py::arg("x"), py::arg("w"), py::arg("layout").none(true),
        py::arg("group_sizes"), py::arg("y"));
  m.def("release_scratch", &release_scratch, "Frees the calling thread's working memory.");
}

}  // namespace mn
