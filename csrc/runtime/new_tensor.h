// Tensors that a binding makes and returns. They are made after all checks have passed, so a
// refused call allocates nothing, and at half the price of an allocation in Python.
#pragma once

#include <span>

#include "runtime/tensor_caster.h"

namespace mn {

struct NewTensor {
  pybind11::object object;
  Tensor view;
};

// Dense, uninitialised, of the library and on the device of `like`. Needs the GIL. Its storage
// cannot be resized by torch. Large ones lie on pages that are kept for reuse: see pages.h.
NewTensor new_tensor(const Tensor& like, DType dtype, std::span<const int64_t> shape);

inline NewTensor new_tensor(const Tensor& like, DType dtype, std::initializer_list<int64_t> shape) {
  return new_tensor(like, dtype, std::span(shape.begin(), shape.size()));
}

// The shape of `like` but for its last dimension.
NewTensor new_tensor_of_rows(const Tensor& like, DType dtype, int64_t last);

// The same shape and dtype too.
inline NewTensor new_tensor_like(const Tensor& like) {
  return new_tensor(like, like.dtype, std::span(like.shape, static_cast<size_t>(like.ndim)));
}

// Called for every tensor that is made on the CPU; null: nobody. A simulated GPU must know its
// memory.
using NewTensorObserver = void (*)(void* data, size_t bytes);
void observe_new_tensors(NewTensorObserver observer);

}  // namespace mn

namespace pybind11::detail {

template <>
struct type_caster<mn::NewTensor> {
  static constexpr auto name = const_name("torch.Tensor");
  static handle cast(const mn::NewTensor& tensor, return_value_policy, handle) {
    return handle(tensor.object).inc_ref();
  }
};

}  // namespace pybind11::detail
