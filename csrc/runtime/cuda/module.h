// The CUDA extension module `_cuda`: each family adds its functions in its own bind_cuda.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace mn {

void bind_attention_cuda(pybind11::module_& m);
void bind_experts_cuda(pybind11::module_& m);
void bind_gemm_cuda(pybind11::module_& m);
void bind_norm_rope_cuda(pybind11::module_& m);
void bind_sampling_cuda(pybind11::module_& m);
void bind_speculative_cuda(pybind11::module_& m);
void bind_routing_cuda(pybind11::module_& m);

}  // namespace mn
