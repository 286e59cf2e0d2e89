// pybind11 argument conversion torch.Tensor -> mn::Tensor through the DLPack C exchange table that
// torch sets on its tensor type. No libtorch is linked, so one extension serves every torch that
// has the table.
#pragma once

#include <pybind11/pybind11.h>

#include "runtime/tensor.h"

namespace mn {

// Throws TypeError when `object` is not a tensor. A tensor that DLPack cannot describe
// gets the first line of torch's message.
Tensor tensor_from_python(PyObject* object);

// The cudaStream_t on which the library that owns `tensor` currently works; needs the GIL.
void* current_stream(const Tensor& tensor);

}  // namespace mn

namespace pybind11::detail {

template <>
struct type_caster<mn::Tensor> {
  PYBIND11_TYPE_CASTER(mn::Tensor, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    value = mn::tensor_from_python(source.ptr());
    return true;
  }
};

}  // namespace pybind11::detail
