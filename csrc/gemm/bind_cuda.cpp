#include <pybind11/stl.h>

#include "gemm/arguments_cuda.h"
#ifdef MN_HAVE_SM90A
#include "gemm/grouped_sm90a.h"
#endif
#include "gemm/row_tiles_cuda.h"
#include "runtime/cuda/module.h"
#include "runtime/new_tensor.h"

namespace mn {
namespace {

namespace py = pybind11;

GemmOutput output_of(DType dtype) {
  return dtype == DType::bf16 ? GemmOutput::bf16 : GemmOutput::f32;
}

// `layout` is that of a packed weight in the CPU's module; here every weight is plain.
NewTensor linear(const Tensor& x, const Tensor& w, std::nullptr_t,
                 const std::optional<std::string>& out_dtype) {
  const Check check("linear", kCudaDevice);
  const Weights weights = weights_argument(check, w, nullptr, 0, "w", "[N, K]");
  const RowSource rows = rows_argument(check, x, "x", weights.layout);
  check.same_device(w, "w", x, "x");
  const DType dtype = result_dtype(check, x, out_dtype);
  GemmSm80Problem problem = product_argument(check, rows, row_count(x), weights, output_of(dtype));
  NewTensor y = new_tensor_of_rows(x, dtype, weights.layout.outputs);
  if (y.view.numel() == 0) return y;
  const GemmSm80Plan plan = plan_product(check, problem, false, gpu_of(x.device_index, check.op()));
  problem.y = y.view.data;
  launch_on_device_of(x, check.op(),
                      [&](cudaStream_t stream) { gemm_sm80(problem, plan, stream); });
  return y;
}

// The newer kernel where the device has it, its tiles are full, and TMA serves the tensors.
bool grouped_by_cutlass([[maybe_unused]] const GemmSm80Problem& p,
                        [[maybe_unused]] const GemmSm80Plan& plan, [[maybe_unused]] const Gpu& gpu,
                        [[maybe_unused]] const Tensor& x,
                        [[maybe_unused]] const Tensor& group_sizes) {
#ifdef MN_HAVE_SM90A
  const bool bf16 = p.x_bf16 && p.w_bf16 && p.output == GemmOutput::bf16;
  if (gpu.major != 9 || gpu.minor != 0 || !bf16 || plan.tile != kLargeTile) return false;
  GroupedSm90aProblem problem{.rows = p.rows,
                              .outputs = p.outputs,
                              .inputs = p.inputs,
                              .groups = p.groups,
                              .x = p.x,
                              .x_stride = p.x_stride,
                              .w = p.w,
                              .w_stride = p.w_stride,
                              .group_stride = p.group_stride,
                              .sizes = group_sizes.data,
                              .wide_sizes = group_sizes.dtype == DType::i64,
                              .y = p.y,
                              .multiprocessors = gpu.multiprocessors,
                              .workspace = nullptr};
  if (!grouped_sm90a_serves(problem)) return false;
  const int64_t bytes = grouped_sm90a_workspace(problem) + kWorkspaceAlignment;
  const NewTensor workspace = new_tensor(x, DType::u8, {bytes});
  const auto begin = reinterpret_cast<uintptr_t>(workspace.view.data);
  problem.workspace = reinterpret_cast<void*>((begin + kWorkspaceAlignment - 1) /
                                              kWorkspaceAlignment * kWorkspaceAlignment);
  launch_on_device_of(x, "grouped_gemm",
                      [&](cudaStream_t stream) { grouped_sm90a(problem, stream); });
  return true;
#else
  return false;
#endif
}

// The sizes stay on the device and are not checked: rows beyond their sum become zero, and what a
// size claims beyond the last row is ignored.
NewTensor grouped_gemm(const Tensor& x, const Tensor& w, std::nullptr_t,
                       const Tensor& group_sizes) {
  const Check check("grouped_gemm", kCudaDevice);
  const Weights weights = weights_argument(check, w, nullptr, 1, "w", "[G, N, K]");
  check.shape(x, "x", {kAny, weights.layout.inputs}, "[M, K]");
  const RowSource rows = rows_argument(check, x, "x", weights.layout);
  check.same_device(w, "w", x, "x");
  check.shape(group_sizes, "group_sizes", {weights.layout.experts}, "[G]");
  check.dtype(group_sizes, "group_sizes", {DType::i64, DType::i32});
  check.same_device(group_sizes, "group_sizes", x, "x");
  check.contiguous(group_sizes, "group_sizes");
  GemmSm80Problem problem = product_argument(check, rows, x.shape[0], weights, output_of(x.dtype));
  check_group_count(check, weights.layout.experts);
  NewTensor y = new_tensor_of_rows(x, x.dtype, weights.layout.outputs);
  if (y.view.numel() == 0) return y;
  const Gpu gpu = gpu_of(x.device_index, check.op());
  const GemmSm80Plan plan = plan_product(check, problem, true, gpu);
  problem.y = y.view.data;
  if (grouped_by_cutlass(problem, plan, gpu, x, group_sizes)) return y;
  const NewTensor tiles = new_tensor(x, DType::i32, {plan.row_tiles, kRowTileWords});
  problem.tiles = tiles.view.as<RowTile>();
  launch_on_device_of(x, check.op(), [&](cudaStream_t stream) {
    row_tiles_of_sizes_sm80({.sizes = group_sizes.data,
                             .wide_sizes = group_sizes.dtype == DType::i64,
                             .groups = problem.groups,
                             .rows = problem.rows,
                             .tile_rows = plan.shape.rows,
                             .row_tiles = static_cast<int32_t>(plan.row_tiles),
                             .tiles = tiles.view.as<RowTile>()},
                            stream);
    gemm_sm80(problem, plan, stream);
  });
  return y;
}

// For tests and for reading: (tile index, description).
std::pair<int, std::string> gemm_plan(int32_t rows, int32_t outputs, int32_t inputs, int32_t groups,
                                      bool bf16, int multiprocessors) {
  GemmSm80Problem problem{};
  problem.rows = rows, problem.outputs = outputs, problem.inputs = inputs;
  problem.groups = groups;
  problem.x_stride = problem.w_stride = inputs;
  problem.group_stride = int64_t{outputs} * inputs;
  problem.x_bf16 = problem.w_bf16 = bf16;
  const GemmSm80Plan plan = plan_gemm_sm80(problem, groups > 1, {multiprocessors, 8, 0});
  return {plan.tile, plan.describe()};
}

}  // namespace

void bind_gemm_cuda(py::module_& m) {
  m.def("linear", &linear, py::arg("x"), py::arg("w"), py::arg("layout"), py::arg("out_dtype"));
  m.def("grouped_gemm", &grouped_gemm, py::arg("x"), py::arg("w"), py::arg("layout"),
        py::arg("group_sizes"));
  m.def("gemm_plan", &gemm_plan, py::arg("rows"), py::arg("outputs"), py::arg("inputs"),
        py::arg("groups"), py::arg("bf16"), py::arg("multiprocessors"),
        "(tile, description) of a product of aligned tensors.");
}

}  // namespace mn
