// Checks of the arguments that the routed layers of all backends share; no tensor's values are
// looked at.
#pragma once

#include <optional>

#include "experts/run.h"
#include "gemm/arguments.h"

namespace mn {

// Rows of any float dtype whose last dimension is `width`.
RowSource float_rows_argument(const Check& check, const Tensor& x, const char* name, int64_t width);

// The weights of both products; ids and their weights with them, or neither for a dense layer. The
// layouts are those of packed weights.
ExpertLayer layer_argument(const Check& check, const Tensor& w_gate_up,
                           const PackedLayout* gate_up_layout, const Tensor& w_down,
                           const PackedLayout* down_layout, const std::optional<Tensor>& ids,
                           const std::optional<Tensor>& weights, int64_t tokens);

// Expert ids [tokens, slots] int32.
void ids_argument(const Check& check, const Tensor& ids, int64_t tokens);

// Whether an output is a sum of at least one term.
inline bool has_terms(const ExpertLayer& layer) {
  return layer.slots > 0 && layer.gate_up.layout.inputs > 0 && layer.down.layout.inputs > 0;
}

}  // namespace mn
