#include "norm_rope/kernels_cuda.h"
#include "norm_rope/validate.h"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/module.h"
#include "runtime/new_tensor.h"

namespace mn {
namespace {

NewTensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  RmsNormProblem problem = rms_norm_problem(Check("rms_norm", kCudaDevice), x, weight, eps);
  NewTensor y = new_tensor_like(x);
  problem.y = y.view.data;
  auto* kernel = x.dtype == DType::f32         ? rms_norm_f32_sm80
                 : weight.dtype == DType::bf16 ? rms_norm_bf16_sm80
                                               : rms_norm_bf16_weight_f32_sm80;
  launch_on_device_of(x, "rms_norm", [&](cudaStream_t stream) { kernel(problem, stream); });
  return y;
}

NewTensor bind_rope_table(const Tensor& positions, double theta, int64_t rotary_dim) {
  RopeTableProblem problem{};
  const Check check("rope_table", kCudaDevice);
  problem.tokens = rope_table_tokens(check, positions, theta, rotary_dim);
  if (rotary_dim > 2 * kMostRopePairs)
    throw UnsupportedError(
        check.op(),
        {"the CUDA kernel has room for a rotary_dim of " + std::to_string(2 * kMostRopePairs) +
         ", this is " + std::to_string(rotary_dim)},
        "Make the table on the CPU and move it.");
  problem.half = static_cast<int>(rotary_dim / 2);
  for (int j = 0; j < problem.half; ++j)
    problem.frequency[j] = rope_frequency(theta, rotary_dim, j);
  NewTensor table = new_tensor(positions, DType::f32, {problem.tokens, rotary_dim});
  problem.positions = positions.as<int64_t>();
  problem.table = table.view.as<float>();
  launch_on_device_of(positions, check.op(),
                      [&](cudaStream_t stream) { rope_table_sm80(problem, stream); });
  return table;
}

std::tuple<NewTensor, NewTensor, NewTensor> rope(const Tensor& q, const Tensor& k, const Tensor& v,
                                                 const Tensor& table, double value_scale,
                                                 bool opposite) {
  const Check check("rope", kCudaDevice);
  RopeProblem problem = rope_problem(check, q, k, v, table, value_scale, opposite);
  std::tuple out{new_tensor_like(q), new_tensor_like(k), new_tensor_like(v)};
  problem.q.out = std::get<0>(out).view.data;
  problem.k.out = std::get<1>(out).view.data;
  problem.v.out = std::get<2>(out).view.data;
  auto* kernel = q.dtype == DType::f32 ? rope_f32_sm80 : rope_bf16_sm80;
  launch_on_device_of(q, check.op(), [&](cudaStream_t stream) { kernel(problem, stream); });
  return out;
}

}  // namespace

void bind_norm_rope_cuda(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("rms_norm", &rms_norm, py::arg("x"), py::arg("weight"), py::arg("eps"));
  m.def("rope_table", &bind_rope_table, py::arg("positions"), py::arg("theta"),
        py::arg("rotary_dim"));
  m.def("rope", &rope, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("table"),
        py::arg("value_scale"), py::arg("opposite"));
}

}  // namespace mn
