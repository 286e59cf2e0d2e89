#include <pybind11/stl.h>

#include "attention/commit.h"
#include "runtime/module.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

// The fields of a CommitLayer.
using Layer = std::tuple<Tensor, Tensor, int64_t, int64_t, std::optional<Tensor>, Tensor, Tensor>;

void cache_commit(const std::vector<Layer>& layers, const Tensor& lengths, const Tensor& cu_seqlens,
                  const std::optional<Tensor>& rows, const std::optional<Tensor>& ancestors,
                  std::optional<int64_t> max_tokens) {
  const pybind11::gil_scoped_release release;
  std::vector<CommitLayer> fields;
  fields.reserve(layers.size());
  for (const auto& [keys, values, head_dim, v_head_dim, held_from, k_new, v_new] : layers)
    fields.push_back({keys, values, head_dim, v_head_dim, held_from, k_new, v_new});
  commit(Check("commit"), fields, {lengths, cu_seqlens, rows, ancestors, max_tokens});
}

}  // namespace

void bind_attention_cache(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("cache_commit", &cache_commit, py::arg("layers"), py::arg("lengths"), py::arg("cu_seqlens"),
        py::arg("rows"), py::arg("ancestors"), py::arg("max_tokens"));
}

}  // namespace mn
