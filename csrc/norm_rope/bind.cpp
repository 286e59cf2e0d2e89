#include <algorithm>

#include "norm_rope/problem.h"
#include "norm_rope/validate.h"
#include "runtime/check.h"
#include "runtime/module.h"
#include "runtime/new_tensor.h"
#include "runtime/scratch.h"

namespace mn {
namespace {

NewTensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  RmsNormProblem problem = rms_norm_problem(Check("rms_norm"), x, weight, eps);
  NewTensor y = new_tensor_like(x);
  problem.y = y.view.data;
  const NormRopeKernels& kernels = norm_rope_kernels_for_isa();
  const pybind11::gil_scoped_release release;
  if (x.dtype == DType::f32)
    kernels.rms_norm_f32(problem);
  else if (weight.dtype == DType::bf16)
    kernels.rms_norm_bf16(problem);
  else
    kernels.rms_norm_bf16_weight_f32(problem);
  return y;
}

// dx and dweight.
std::tuple<NewTensor, NewTensor> rms_norm_backward(const Tensor& dy, const Tensor& x,
                                                   const Tensor& weight, double eps) {
  constexpr int64_t kMostChunks = 32, kLeastRows = 16;
  const Check check("rms_norm_backward");
  const RmsNormProblem forward = rms_norm_problem(check, x, weight, eps);
  check.same_dtype(dy, "dy", x, "x");
  check.contiguous(dy, "dy");
  if (dy.numel() != x.numel())
    check.fail("dy", "as many elements as x, " + x.describe(), dy.describe());
  std::tuple out{new_tensor_like(x), new_tensor_like(weight)};
  const NormRopeKernels& kernels = norm_rope_kernels_for_isa();
  const pybind11::gil_scoped_release release;
  const int64_t rows = forward.rows;
  const int64_t chunk_rows = std::max(kLeastRows, (rows + kMostChunks - 1) / kMostChunks);
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  char* const partial = scratch(chunks * forward.dim * static_cast<int64_t>(sizeof(float)));
  const RmsNormBackwardProblem problem{.rows = rows,
                                       .dim = forward.dim,
                                       .x_stride = forward.x_stride,
                                       .eps = forward.eps,
                                       .x = x.data,
                                       .weight = weight.data,
                                       .dy = dy.data,
                                       .dx = std::get<0>(out).view.data,
                                       .dweight = std::get<1>(out).view.data,
                                       .chunk_rows = chunk_rows,
                                       .chunks = chunks,
                                       .partial = reinterpret_cast<float*>(partial)};
  if (x.dtype == DType::f32)
    kernels.rms_norm_backward_f32(problem);
  else if (weight.dtype == DType::bf16)
    kernels.rms_norm_backward_bf16(problem);
  else
    kernels.rms_norm_backward_bf16_weight_f32(problem);
  return out;
}

NewTensor bind_rope_table(const Tensor& positions, double theta, int64_t rotary_dim) {
  const int64_t tokens = rope_table_tokens(Check("rope_table"), positions, theta, rotary_dim);
  NewTensor table = new_tensor(positions, DType::f32, {tokens, rotary_dim});
  const pybind11::gil_scoped_release release;
  rope_table(positions.as<int64_t>(), tokens, theta, rotary_dim, table.view.as<float>());
  return table;
}

std::tuple<NewTensor, NewTensor, NewTensor> rope(const Tensor& q, const Tensor& k, const Tensor& v,
                                                 const Tensor& table, double value_scale,
                                                 bool opposite) {
  RopeProblem problem = rope_problem(Check("rope"), q, k, v, table, value_scale, opposite);
  std::tuple out{new_tensor_like(q), new_tensor_like(k), new_tensor_like(v)};
  problem.q.out = std::get<0>(out).view.data;
  problem.k.out = std::get<1>(out).view.data;
  problem.v.out = std::get<2>(out).view.data;
  const NormRopeKernels& kernels = norm_rope_kernels_for_isa();
  const pybind11::gil_scoped_release release;
  (q.dtype == DType::f32 ? kernels.rope_f32 : kernels.rope_bf16)(problem);
  return out;
}

}  // namespace

void bind_norm_rope(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("rms_norm", &rms_norm, py::arg("x"), py::arg("weight"), py::arg("eps"));
  m.def("rms_norm_backward", &rms_norm_backward, py::arg("dy"), py::arg("x"), py::arg("weight"),
        py::arg("eps"));
  m.def("rope_table", &bind_rope_table, py::arg("positions"), py::arg("theta"),
        py::arg("rotary_dim"));
  m.def("rope", &rope, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("table"),
        py::arg("value_scale"), py::arg("opposite"));
}

}  // namespace mn
