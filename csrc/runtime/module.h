// The CPU extension module `_C`: each family adds its functions in its own bind.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace mn {

void bind_runtime(pybind11::module_& m);
void bind_probe(pybind11::module_& m);
void bind_experts(pybind11::module_& m);
void bind_gemm(pybind11::module_& m);
void bind_norm_rope(pybind11::module_& m);
void bind_attention(pybind11::module_& m);
void bind_attention_backward(pybind11::module_& m);
void bind_attention_cache(pybind11::module_& m);
void bind_routing(pybind11::module_& m);
void bind_sampling(pybind11::module_& m);
void bind_speculative(pybind11::module_& m);
void bind_speculative_round(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_loss(pybind11::module_& m);

}  // namespace mn
