#include "experts/arguments.h"

namespace mn {
namespace {

std::string text_of(int64_t experts, int64_t rows, int64_t columns) {
  std::string text = "[";
  text.append(std::to_string(experts)).append(", ");
  text.append(std::to_string(rows)).append(", ");
  return text.append(std::to_string(columns)).append("]");
}

}  // namespace

RowSource float_rows_argument(const Check& check, const Tensor& x, const char* name,
                              int64_t width) {
  check.dtype(x, name, {DType::f32, DType::bf16});
  const Format format = x.dtype == DType::bf16 ? Format::bf16 : Format::f32;
  return rows_argument(check, x, name, {format, 1, 0, width, 0});
}

void ids_argument(const Check& check, const Tensor& ids, int64_t tokens) {
  check.shape(ids, "ids", {tokens, kAny}, "[T, K]");
  check.on_device(ids, "ids");
  check.dtype(ids, "ids", {DType::i32});
  check.contiguous(ids, "ids");
  if (ids.numel() > INT32_MAX) check.fail("ids", "fewer than 2^31 pairs", ids.describe());
}

ExpertLayer layer_argument(const Check& check, const Tensor& w_gate_up,
                           const PackedLayout* gate_up_layout, const Tensor& w_down,
                           const PackedLayout* down_layout, const std::optional<Tensor>& ids,
                           const std::optional<Tensor>& weights, int64_t tokens) {
  const int matrices = ids ? 1 : 0;
  ExpertLayer layer{.gate_up = weights_argument(check, w_gate_up, gate_up_layout, matrices,
                                                "w_gate_up", matrices ? "[E, 2F, D]" : "[2F, D]"),
                    .down = weights_argument(check, w_down, down_layout, matrices, "w_down",
                                             matrices ? "[E, D, F]" : "[D, F]"),
                    .routed = ids.has_value(),
                    .ids = nullptr,
                    .weights = nullptr,
                    .slots = 1};
  const PackedLayout &up = layer.gate_up.layout, &down = layer.down.layout;
  check.same_device(w_down, "w_down", w_gate_up, "w_gate_up");
  if (up.outputs % 2)
    check.fail("w_gate_up", "an even number 2F of rows", std::to_string(up.outputs));
  if (down.experts != up.experts || down.outputs != up.inputs || down.inputs != up.outputs / 2)
    check.fail("w_down", "[E, D, F] = " + text_of(up.experts, up.inputs, up.outputs / 2),
               text_of(down.experts, down.outputs, down.inputs));
  if (down.format != up.format || layer.down.packed != layer.gate_up.packed)
    check.fail("w_down", "the dtype of w_gate_up, and packed if that is", "another",
               "Convert or pack both alike.");
  if (!ids) return layer;

  ids_argument(check, *ids, tokens);
  check.same_device(*ids, "ids", w_gate_up, "w_gate_up");
  layer.slots = ids->shape[1];
  check.shape(*weights, "weights", {tokens, layer.slots}, "[T, K]");
  check.same_device(*weights, "weights", w_gate_up, "w_gate_up");
  check.dtype(*weights, "weights", {DType::f32});
  check.contiguous(*weights, "weights");
  layer.ids = ids->as<int32_t>();
  layer.weights = weights->as<float>();
  return layer;
}

}  // namespace mn
