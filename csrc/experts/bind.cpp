#include <pybind11/stl.h>

#include <cstring>
#include <optional>

#include "experts/arguments.h"
#include "experts/plan.h"
#include "experts/run.h"
#include "runtime/module.h"
#include "runtime/new_tensor.h"

namespace mn {
namespace {

namespace py = pybind11;

NewTensor swiglu(const Tensor& gate_up) {
  const Check check("swiglu");
  check.ndim_at_least(gate_up, "gate_up", 1, "[.., 2F]");
  const RowSource rows = float_rows_argument(check, gate_up, "gate_up", gate_up.last());
  if (gate_up.last() % 2) check.fail("gate_up", "an even last dimension", gate_up.describe());
  NewTensor y = new_tensor_of_rows(gate_up, gate_up.dtype, gate_up.last() / 2);
  const SwigluProblem problem{.rows = gate_up.rows(),
                              .ffn = gate_up.last() / 2,
                              .x_stride = rows.stride,
                              .gate_up = gate_up.data,
                              .y = y.view.data};
  const ExpertKernels& kernels = expert_kernels_for_isa();
  const py::gil_scoped_release release;
  (rows.bf16 ? kernels.swiglu_bf16 : kernels.swiglu_f32)(problem);
  return y;
}

void swiglu_grad(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up) {
  const Check check("swiglu_grad");
  check.dtype(dy, "dy", {DType::f32, DType::bf16});
  check.same_dtype(gate_up, "gate_up", dy, "dy");
  check.same_dtype(d_gate_up, "d_gate_up", dy, "dy");
  check.contiguous(dy, "dy");
  check.contiguous(gate_up, "gate_up");
  check.contiguous(d_gate_up, "d_gate_up");
  if (gate_up.numel() != 2 * dy.numel() || d_gate_up.numel() != gate_up.numel())
    check.fail("gate_up", "twice the width of dy", gate_up.describe());
  const SwigluGradProblem problem{.rows = dy.rows(),
                                  .ffn = dy.last(),
                                  .dy = dy.data,
                                  .gate_up = gate_up.data,
                                  .d_gate_up = d_gate_up.data};
  const ExpertKernels& kernels = expert_kernels_for_isa();
  const py::gil_scoped_release release;
  (dy.dtype == DType::bf16 ? kernels.swiglu_grad_bf16 : kernels.swiglu_grad_f32)(problem);
}

void check_id_values(const Check& check, const Tensor& ids, int64_t experts) {
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int32_t id = ids.as<int32_t>()[i];
    if (id < 0 || id >= experts)
      check.fail("ids", "expert ids in [0, " + std::to_string(experts) + ")",
                 std::to_string(id) + " at [" + std::to_string(i / ids.shape[1]) + ", " +
                     std::to_string(i % ids.shape[1]) + "]");
  }
}

// layer_argument, and the ids themselves.
ExpertLayer checked_layer(const Check& check, const Tensor& w_gate_up,
                          const PackedLayout* gate_up_layout, const Tensor& w_down,
                          const PackedLayout* down_layout, const std::optional<Tensor>& ids,
                          const std::optional<Tensor>& weights, int64_t tokens) {
  const ExpertLayer layer =
      layer_argument(check, w_gate_up, gate_up_layout, w_down, down_layout, ids, weights, tokens);
  if (ids) check_id_values(check, *ids, layer.gate_up.layout.experts);
  return layer;
}

void* data_or_null(const std::optional<Tensor>& t) { return t ? t->data : nullptr; }

NewTensor forward(const Check& check, const Tensor& x, const ExpertLayer& layer,
                  const std::optional<Tensor>& saved) {
  const RowSource rows = rows_argument(check, x, "x", layer.gate_up.layout);
  if (saved) {
    if (layer.gate_up.layout.coded())
      check.fail("saved", "nothing: codes have no backward", saved->describe());
    check.shape(*saved, "saved", {x.rows() * layer.slots, layer.gate_up.layout.outputs},
                "[T * K, 2F]");
    check.contiguous(*saved, "saved");
  }
  NewTensor y = new_tensor_like(x);
  const py::gil_scoped_release release;
  if (has_terms(layer))
    run_experts(layer, rows, x.rows(), data_or_null(saved), y.view.data, rows.bf16);
  else
    std::memset(y.view.data, 0, static_cast<size_t>(x.numel() * size_of(x.dtype)));
  return y;
}

NewTensor swiglu_mlp(const Tensor& x, const Tensor& w_gate_up, const PackedLayout* gate_up_layout,
                     const Tensor& w_down, const PackedLayout* down_layout,
                     const std::optional<Tensor>& saved) {
  const Check check("swiglu_mlp");
  return forward(check, x,
                 layer_argument(check, w_gate_up, gate_up_layout, w_down, down_layout, std::nullopt,
                                std::nullopt, 0),
                 saved);
}

NewTensor expert_mlp(const Tensor& x, const Tensor& w_gate_up, const PackedLayout* gate_up_layout,
                     const Tensor& w_down, const PackedLayout* down_layout, const Tensor& ids,
                     const Tensor& weights, const std::optional<Tensor>& saved) {
  const Check check("expert_mlp");
  check.shape(x, "x", {kAny, kAny}, "[T, D]");
  return forward(check, x,
                 checked_layer(check, w_gate_up, gate_up_layout, w_down, down_layout, ids, weights,
                               x.shape[0]),
                 saved);
}

// Gradients of expert_mlp, or with `ids` None of swiglu_mlp. `d_gate_up` and `scaled_h` are working
// memory; a gradient that is None is not computed.
void expert_mlp_backward(const Tensor& dy, const Tensor& x, const Tensor& w_gate_up,
                         const Tensor& w_down, const std::optional<Tensor>& ids,
                         const std::optional<Tensor>& weights, const Tensor& saved,
                         const Tensor& d_gate_up, const Tensor& scaled_h,
                         const std::optional<Tensor>& dx, const std::optional<Tensor>& dweights,
                         const std::optional<Tensor>& dw_gate_up,
                         const std::optional<Tensor>& dw_down) {
  const Check check("expert_mlp_backward");
  check.shape(x, "x", {kAny, kAny}, "[T, D]");
  check.shape(dy, "dy", {x.shape[0], x.shape[1]}, "[T, D]");
  const int64_t tokens = x.shape[0];
  const ExpertLayer layer =
      checked_layer(check, w_gate_up, nullptr, w_down, nullptr, ids, weights, tokens);
  check.same_dtype(dy, "dy", w_gate_up, "w_gate_up");
  check.same_dtype(x, "x", w_gate_up, "w_gate_up");
  const RowSource dy_rows = rows_argument(check, dy, "dy", layer.gate_up.layout);
  const RowSource x_rows = rows_argument(check, x, "x", layer.gate_up.layout);
  const int64_t rows = tokens * layer.slots, ffn = layer.down.layout.inputs;
  for (const auto& [tensor, name, columns] :
       {std::tuple{&saved, "saved", 2 * ffn}, std::tuple{&d_gate_up, "d_gate_up", 2 * ffn},
        std::tuple{&scaled_h, "scaled_h", ffn}}) {
    check.shape(*tensor, name, {rows, columns}, "[T * K, columns]");
    check.same_dtype(*tensor, name, w_gate_up, "w_gate_up");
    check.contiguous(*tensor, name);
  }
  const py::gil_scoped_release release;
  if (!has_terms(layer)) {
    for (const std::optional<Tensor>& grad : {dx, dweights, dw_gate_up, dw_down})
      if (grad)
        std::memset(grad->data, 0, static_cast<size_t>(grad->numel() * size_of(grad->dtype)));
    return;
  }
  run_experts_backward(layer, dy_rows, x_rows, tokens, saved.data,
                       {.dx = data_or_null(dx),
                        .dweights = static_cast<float*>(data_or_null(dweights)),
                        .dw_gate_up = data_or_null(dw_gate_up),
                        .dw_down = data_or_null(dw_down),
                        .d_gate_up = d_gate_up.data,
                        .scaled_h = scaled_h.data});
}

// For tests and for reading: (sizes, token, position, description).
auto expert_plan(const Tensor& ids, int64_t experts) {
  const Check check("expert_plan");
  check.shape(ids, "ids", {kAny, kAny}, "[T, K]");
  ids_argument(check, ids, ids.shape[0]);
  check_id_values(check, ids, experts);
  const int tile_rows = gemm_kernels_for_isa().tile_rows[0];
  const ExpertPlan plan =
      plan_experts(ids.as<int32_t>(), ids.shape[0], ids.shape[1], experts, tile_rows);
  return std::make_tuple(plan.sizes, plan.token, plan.position, plan.describe());
}

}  // namespace

void bind_experts(py::module_& m) {
  m.def("swiglu", &swiglu, py::arg("gate_up"));
  m.def("swiglu_grad", &swiglu_grad, py::arg("dy"), py::arg("gate_up"), py::arg("d_gate_up"));
  m.def("swiglu_mlp", &swiglu_mlp, py::arg("x"), py::arg("w_gate_up"),
        py::arg("gate_up_layout").none(true), py::arg("w_down"), py::arg("down_layout").none(true),
        py::arg("saved").none(true));
  m.def("expert_mlp", &expert_mlp, py::arg("x"), py::arg("w_gate_up"),
        py::arg("gate_up_layout").none(true), py::arg("w_down"), py::arg("down_layout").none(true),
        py::arg("ids"), py::arg("weights"), py::arg("saved").none(true));
  m.def("expert_mlp_backward", &expert_mlp_backward, py::arg("dy"), py::arg("x"),
        py::arg("w_gate_up"), py::arg("w_down"), py::arg("ids").none(true),
        py::arg("weights").none(true), py::arg("saved"), py::arg("d_gate_up"), py::arg("scaled_h"),
        py::arg("dx").none(true), py::arg("dweights").none(true), py::arg("dw_gate_up").none(true),
        py::arg("dw_down").none(true));
  m.def("expert_plan", &expert_plan, py::arg("ids"), py::arg("experts"),
        "(rows per expert, token of each sorted row, sorted row of each pair, description).");
}

}  // namespace mn
