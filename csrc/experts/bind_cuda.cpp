#include <pybind11/stl.h>

#include "experts/arguments.h"
#include "experts/kernels_cuda.h"
#include "gemm/arguments_cuda.h"
#include "runtime/cuda/module.h"
#include "runtime/new_tensor.h"

namespace mn {
namespace {

namespace py = pybind11;

NewTensor swiglu(const Tensor& gate_up) {
  const Check check("swiglu", kCudaDevice);
  check.ndim_at_least(gate_up, "gate_up", 1, "[.., 2F]");
  const RowSource rows = float_rows_argument(check, gate_up, "gate_up", gate_up.last());
  if (gate_up.last() % 2) check.fail("gate_up", "an even last dimension", gate_up.describe());
  gpu_of(gate_up.device_index, check.op());
  NewTensor y = new_tensor_of_rows(gate_up, gate_up.dtype, gate_up.last() / 2);
  const SwigluProblem problem{.rows = gate_up.rows(),
                              .ffn = gate_up.last() / 2,
                              .x_stride = rows.stride,
                              .gate_up = gate_up.data,
                              .y = y.view.data};
  if (problem.rows == 0 || problem.ffn == 0) return y;
  launch_on_device_of(gate_up, check.op(), [&](cudaStream_t stream) {
    (rows.bf16 ? swiglu_bf16_sm80 : swiglu_f32_sm80)(problem, stream);
  });
  return y;
}

// Both products of a layer over `rows` rows, and what lies between them.
struct Products {
  GemmSm80Problem up, down;
  GemmSm80Plan up_plan, down_plan;
  NewTensor h;  // [rows, ffn] activations in the weights' dtype
};

Products layer_products(const Check& check, const Tensor& x, const RowSource& rows, int64_t count,
                        const ExpertLayer& layer, GemmOutput output) {
  const Gpu gpu = gpu_of(x.device_index, check.op());
  Products p{};
  p.up = product_argument(check, rows, count, layer.gate_up, GemmOutput::swiglu);
  const bool bf16 = p.up.w_bf16;
  const int64_t ffn = layer.down.layout.inputs;
  // A new tensor is aligned, so the plan need not know where it will be.
  p.down = product_argument(check, {nullptr, ffn, nullptr, bf16}, count, layer.down, output);
  p.up_plan = plan_product(check, p.up, layer.routed, gpu);
  p.down_plan = plan_product(check, p.down, layer.routed, gpu);
  if (layer.routed && p.up_plan.tile != p.down_plan.tile) {
    // They share one table of row tiles. Every product has plans of this size.
    p.up_plan = plan_product(check, p.up, true, gpu, kMediumTile);
    p.down_plan = plan_product(check, p.down, true, gpu, kMediumTile);
  }
  p.h = new_tensor(x, bf16 ? DType::bf16 : DType::f32, {count, ffn});
  p.up.y = p.h.view.data;
  p.down.x = p.h.view.data;
  return p;
}

void fill_with_zeros(const Tensor& y, const char* op) {
  if (y.numel() == 0) return;
  launch_on_device_of(y, op, [&](cudaStream_t stream) {
    throw_on_error(
        cudaMemsetAsync(y.data, 0, static_cast<size_t>(y.numel() * size_of(y.dtype)), stream), op);
  });
}

// The layouts and `saved` are those of the CPU's module; here weights are plain, and there is no
// backward.
NewTensor swiglu_mlp(const Tensor& x, const Tensor& w_gate_up, std::nullptr_t, const Tensor& w_down,
                     std::nullptr_t, std::nullptr_t) {
  const Check check("swiglu_mlp", kCudaDevice);
  const ExpertLayer layer =
      layer_argument(check, w_gate_up, nullptr, w_down, nullptr, std::nullopt, std::nullopt, 0);
  const RowSource rows = rows_argument(check, x, "x", layer.gate_up.layout);
  check.same_device(w_gate_up, "w_gate_up", x, "x");
  NewTensor y = new_tensor_like(x);
  if (x.numel() == 0 || !has_terms(layer)) return fill_with_zeros(y.view, check.op()), y;
  const GemmOutput output = rows.bf16 ? GemmOutput::bf16 : GemmOutput::f32;
  Products p = layer_products(check, x, rows, row_count(x), layer, output);
  p.down.y = y.view.data;
  launch_on_device_of(x, check.op(), [&](cudaStream_t stream) {
    gemm_sm80(p.up, p.up_plan, stream);
    gemm_sm80(p.down, p.down_plan, stream);
  });
  return y;
}

// Ids stay on the device and are not checked: one that is no expert makes its token NaN.
NewTensor expert_mlp(const Tensor& x, const Tensor& w_gate_up, std::nullptr_t, const Tensor& w_down,
                     std::nullptr_t, const Tensor& ids, const Tensor& weights, std::nullptr_t) {
  const Check check("expert_mlp", kCudaDevice);
  check.shape(x, "x", {kAny, kAny}, "[T, D]");
  const ExpertLayer layer =
      layer_argument(check, w_gate_up, nullptr, w_down, nullptr, ids, weights, x.shape[0]);
  const RowSource rows = rows_argument(check, x, "x", layer.gate_up.layout);
  check.same_device(w_gate_up, "w_gate_up", x, "x");
  check_group_count(check, layer.gate_up.layout.experts);
  NewTensor y = new_tensor_like(x);
  if (x.numel() == 0 || !has_terms(layer)) return fill_with_zeros(y.view, check.op()), y;

  const int64_t pairs = x.shape[0] * layer.slots, experts = layer.gate_up.layout.experts;
  Products p = layer_products(check, x, rows, pairs, layer, GemmOutput::f32);
  const int64_t chunks = sort_chunks(pairs), tiles = p.up_plan.row_tiles;
  const NewTensor products = new_tensor(x, DType::f32, {pairs, x.shape[1]});
  const NewTensor table = new_tensor(x, DType::i32, {tiles, kRowTileWords});
  const NewTensor token = new_tensor(x, DType::i32, {pairs});
  const NewTensor position = new_tensor(x, DType::i32, {pairs});
  const NewTensor bins = new_tensor(x, DType::i32, {chunks > 1 ? chunks : 0, experts});
  const SortSm80Problem sort{.ids = layer.ids,
                             .pairs = p.up.rows,
                             .slots = static_cast<int32_t>(layer.slots),
                             .experts = p.up.groups,
                             .bins = bins.view.as<int32_t>(),
                             .tiles = table.view.as<RowTile>(),
                             .tile_rows = p.up_plan.shape.rows,
                             .row_tiles = static_cast<int32_t>(tiles),
                             .token = token.view.as<int32_t>(),
                             .position = position.view.as<int32_t>()};
  p.up.tiles = p.down.tiles = sort.tiles;
  p.up.index = sort.token;
  p.down.y = products.view.data;
  const CombineSm80Problem combine{.tokens = x.shape[0],
                                   .slots = layer.slots,
                                   .width = x.shape[1],
                                   .products = products.view.as<float>(),
                                   .position = sort.position,
                                   .weights = layer.weights,
                                   .y = y.view.data,
                                   .y_bf16 = rows.bf16};
  launch_on_device_of(x, check.op(), [&](cudaStream_t stream) {
    sort_pairs_sm80(sort, stream);
    gemm_sm80(p.up, p.up_plan, stream);
    gemm_sm80(p.down, p.down_plan, stream);
    combine_slots_sm80(combine, stream);
  });
  return y;
}

}  // namespace

void bind_experts_cuda(py::module_& m) {
  m.def("swiglu", &swiglu, py::arg("gate_up"));
  m.def("swiglu_mlp", &swiglu_mlp, py::arg("x"), py::arg("w_gate_up"), py::arg("gate_up_layout"),
        py::arg("w_down"), py::arg("down_layout"), py::arg("saved"));
  m.def("expert_mlp", &expert_mlp, py::arg("x"), py::arg("w_gate_up"), py::arg("gate_up_layout"),
        py::arg("w_down"), py::arg("down_layout"), py::arg("ids"), py::arg("weights"),
        py::arg("saved"));
}

}  // namespace mn
