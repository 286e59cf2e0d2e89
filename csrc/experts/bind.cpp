#include <omp.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>

#include "experts/plan.h"
#include "experts/problem.h"
#include "gemm/arguments.h"
#include "runtime/module.h"
#include "runtime/scratch.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

namespace py = pybind11;

// Tokens of one pass: an expert's weights are then used for so many rows on average that reading
// them again costs little, and the scratch stays small beside a model.
constexpr int64_t kRowsPerExpert = 128;
constexpr int64_t kLeastTokens = 512;

void swiglu(const Tensor& gate_up, const Tensor& y) {
  const Check check("swiglu");
  check.ndim_at_least(gate_up, "gate_up", 1, "[.., 2F]");
  check.on_cpu(gate_up, "gate_up");
  check.dtype(gate_up, "gate_up", {DType::f32, DType::bf16});
  if (gate_up.last() % 2) check.fail("gate_up", "an even last dimension", gate_up.describe());
  const bool bf16 = gate_up.dtype == DType::bf16;
  const RowSource rows = rows_argument(
      check, gate_up, "gate_up", {bf16 ? Format::bf16 : Format::f32, 1, 0, gate_up.last(), 0});
  const SwigluProblem problem{.rows = gate_up.rows(),
                              .ffn = gate_up.last() / 2,
                              .x_stride = rows.stride,
                              .gate_up = gate_up.data,
                              .y = y.data};
  const ExpertKernels& kernels = expert_kernels_for_isa();
  const py::gil_scoped_release release;
  (bf16 ? kernels.swiglu_bf16 : kernels.swiglu_f32)(problem);
}

struct Layers {
  Weights gate_up, down;
};

Layers layers_argument(const Check& check, const Tensor& w_gate_up, const PackedLayout* up_layout,
                       const Tensor& w_down, const PackedLayout* down_layout, int matrices) {
  const Layers l{weights_argument(check, w_gate_up, up_layout, matrices, "w_gate_up",
                                  matrices ? "[E, 2F, D]" : "[2F, D]"),
                 weights_argument(check, w_down, down_layout, matrices, "w_down",
                                  matrices ? "[E, D, F]" : "[D, F]")};
  const PackedLayout &up = l.gate_up.layout, &down = l.down.layout;
  if (up.outputs % 2)
    check.fail("w_gate_up", "an even number 2F of rows", std::to_string(up.outputs));
  if (down.experts != up.experts || down.outputs != up.inputs || down.inputs != up.outputs / 2)
    check.fail("w_down",
               "[E, D, F] = [" + std::to_string(up.experts) + ", " + std::to_string(up.inputs) +
                   ", " + std::to_string(up.outputs / 2) + "]",
               "[" + std::to_string(down.experts) + ", " + std::to_string(down.outputs) + ", " +
                   std::to_string(down.inputs) + "]");
  if (down.format != up.format || l.down.packed != l.gate_up.packed)
    check.fail("w_down", "the dtype of w_gate_up, and packed if that is", "another",
               "Convert or pack both alike.");
  return l;
}

// One pass: `p` comes with everything but scratch, threads and job sizes.
void run(ExpertProblem p, const RowPlan& rows) {
  const PackedLayout &up = p.gate_up.layout, &down = p.down.layout;
  p.rows = rows.view();
  p.threads = omp_get_max_threads();
  const int64_t value_bytes = up.format == Format::bf16 ? 2 : 4;
  const int64_t ffn_panels = (down.inputs + kPanel - 1) / kPanel;
  p.ffn_panels_per_job = plan_panels_per_job(ffn_panels, rows, p.threads);
  p.width_panels_per_job = std::clamp<int64_t>(down.panels() / (8 * p.threads), 1, 4);

  ScratchPlan parts;
  const int64_t x_at = parts.add(rows.rows * up.steps() * up.depth() * value_bytes);
  const int64_t h_at = parts.add(rows.rows * down.steps() * down.depth() * value_bytes);
  const int64_t sums =
      std::max(rows.most_rows * 4 * kPanel, rows.rows * p.width_panels_per_job * kPanel);
  const int64_t panels = p.down.packed ? 0 : 4 * std::max(up.panel_bytes(), down.panel_bytes());
  p.thread_scratch_bytes = (sums * 4 + panels + 127) / 128 * 128;
  const int64_t threads_at = parts.add(p.thread_scratch_bytes * p.threads);
  char* base = scratch(parts.total());
  p.packed_x = base + x_at;
  p.packed_h = base + h_at;
  p.thread_scratch = base + threads_at;
  expert_kernels_for_isa().forward[static_cast<int>(up.format)](p);
}

bool empty_sum(const Layers& l, const Tensor& y) {
  if (l.gate_up.layout.inputs != 0 && l.down.layout.inputs != 0) return false;
  std::memset(y.data, 0, static_cast<size_t>(y.numel() * size_of(y.dtype)));
  return true;
}

void swiglu_mlp(const Tensor& x, const Tensor& w_gate_up, const PackedLayout* up_layout,
                const Tensor& w_down, const PackedLayout* down_layout, const Tensor& y) {
  const Check check("swiglu_mlp");
  const Layers l = layers_argument(check, w_gate_up, up_layout, w_down, down_layout, 0);
  RowSource rows = rows_argument(check, x, "x", l.gate_up.layout);
  const int64_t tokens = x.rows(), width = l.down.layout.outputs;
  const int tile_rows = gemm_kernels_for_isa().tile_rows[static_cast<int>(l.gate_up.layout.format)];
  const py::gil_scoped_release release;
  if (tokens == 0 || empty_sum(l, y)) return;
  const int64_t row_bytes = size_of(x.dtype);
  const int64_t most = 4 * kLeastTokens;
  for (int64_t first = 0; first < tokens; first += most) {
    const int64_t count = std::min(most, tokens - first);
    rows.data = static_cast<const char*>(x.data) + first * rows.stride * row_bytes;
    run({.tokens = count,
         .slots = 1,
         .x = rows,
         .gate_up = l.gate_up,
         .down = l.down,
         .y = static_cast<char*>(y.data) + first * width * row_bytes,
         .y_bf16 = y.dtype == DType::bf16},
        plan_rows(&count, 1, tile_rows));
  }
}

void check_ids(const Check& check, const Tensor& ids, int64_t tokens, int64_t experts) {
  check.shape(ids, "ids", {tokens, kAny}, "[T, K]");
  check.on_cpu(ids, "ids");
  check.dtype(ids, "ids", {DType::i32});
  check.contiguous(ids, "ids");
  const int64_t pairs = ids.numel();
  for (int64_t i = 0; i < pairs; ++i) {
    const int32_t id = ids.as<int32_t>()[i];
    if (id < 0 || id >= experts)
      check.fail("ids", "expert ids in [0, " + std::to_string(experts) + ")",
                 std::to_string(id) + " at [" + std::to_string(i / ids.shape[1]) + ", " +
                     std::to_string(i % ids.shape[1]) + "]");
  }
  if (pairs > INT32_MAX) check.fail("ids", "fewer than 2^31 pairs", ids.describe());
}

void expert_mlp(const Tensor& x, const Tensor& w_gate_up, const PackedLayout* up_layout,
                const Tensor& w_down, const PackedLayout* down_layout, const Tensor& ids,
                const Tensor& weights, const Tensor& y) {
  const Check check("expert_mlp");
  const Layers l = layers_argument(check, w_gate_up, up_layout, w_down, down_layout, 1);
  check.shape(x, "x", {kAny, l.gate_up.layout.inputs}, "[T, D]");
  RowSource rows = rows_argument(check, x, "x", l.gate_up.layout);
  const int64_t tokens = x.shape[0], experts = l.gate_up.layout.experts;
  const int64_t width = l.down.layout.outputs;
  check_ids(check, ids, tokens, experts);
  const int64_t slots = ids.shape[1];
  check.shape(weights, "weights", {tokens, slots}, "[T, K]");
  check.on_cpu(weights, "weights");
  check.dtype(weights, "weights", {DType::f32});
  check.contiguous(weights, "weights");
  const int tile_rows = gemm_kernels_for_isa().tile_rows[static_cast<int>(l.gate_up.layout.format)];
  const py::gil_scoped_release release;
  if (tokens == 0 || width == 0) return;
  if (slots == 0) {
    std::memset(y.data, 0, static_cast<size_t>(y.numel() * size_of(y.dtype)));
    return;
  }
  if (empty_sum(l, y)) return;

  const int64_t row_bytes = size_of(x.dtype);
  const int64_t most = std::max(kLeastTokens, kRowsPerExpert * experts / slots);
  for (int64_t first = 0; first < tokens; first += most) {
    const int64_t count = std::min(most, tokens - first);
    const ExpertPlan plan =
        plan_experts(ids.as<int32_t>() + first * slots, count, slots, experts, tile_rows);
    rows.data = static_cast<const char*>(x.data) + first * rows.stride * row_bytes;
    rows.index = plan.token.data();
    run({.tokens = count,
         .slots = slots,
         .x = rows,
         .gate_up = l.gate_up,
         .down = l.down,
         .position = plan.position.data(),
         .weights = weights.as<float>() + first * slots,
         .y = static_cast<char*>(y.data) + first * width * row_bytes,
         .y_bf16 = y.dtype == DType::bf16},
        plan.rows);
  }
}

// For tests and for reading: (sizes, token, position, description).
auto expert_plan(const Tensor& ids, int64_t experts) {
  const Check check("expert_plan");
  check.shape(ids, "ids", {kAny, kAny}, "[T, K]");
  check_ids(check, ids, ids.shape[0], experts);
  const int tile_rows = gemm_kernels_for_isa().tile_rows[0];
  const ExpertPlan plan =
      plan_experts(ids.as<int32_t>(), ids.shape[0], ids.shape[1], experts, tile_rows);
  return std::make_tuple(plan.sizes, plan.token, plan.position, plan.describe());
}

}  // namespace

void bind_experts(py::module_& m) {
  m.def("swiglu", &swiglu, py::arg("gate_up"), py::arg("y"));
  m.def("swiglu_mlp", &swiglu_mlp, py::arg("x"), py::arg("w_gate_up"),
        py::arg("gate_up_layout").none(true), py::arg("w_down"), py::arg("down_layout").none(true),
        py::arg("y"));
  m.def("expert_mlp", &expert_mlp, py::arg("x"), py::arg("w_gate_up"),
        py::arg("gate_up_layout").none(true), py::arg("w_down"), py::arg("down_layout").none(true),
        py::arg("ids"), py::arg("weights"), py::arg("y"));
  m.def("expert_plan", &expert_plan, py::arg("ids"), py::arg("experts"),
        "(rows per expert, token of each sorted row, sorted row of each pair, description).");
}

}  // namespace mn
