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

}  // namespace

void bind_norm_rope_cuda(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("rms_norm", &rms_norm, py::arg("x"), py::arg("weight"), py::arg("eps"));
}

}  // namespace mn
