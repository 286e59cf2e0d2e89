#include <pybind11/stl.h>

#include "runtime/cuda/launch.h"
#include "runtime/cuda/module.h"
#include "runtime/new_tensor.h"
#include "sampling/kernels_cuda.h"
#include "sampling/validate.h"

namespace mn {
namespace {

std::pair<NewTensor, NewTensor> sample(const Tensor& logits, const Tensor& seed,
                                       const Tensor& position, const MaybeTensor& temperature) {
  const Check check("sample", kCudaDevice);
  const MaybeTensor off;
  SampleProblem problem = sample_problem(
      check, {logits, seed, position, temperature, off, off, off, off, off, off, off, off});
  check.range(problem.vocab, "the vocabulary of logits", 1,
              int64_t{kMostSampleChunks} * kSampleChunk);
  gpu_of(logits.device_index, check.op());
  std::pair out{new_tensor(logits, DType::i64, {problem.rows}),
                new_tensor(logits, DType::f32, {problem.rows})};
  problem.ids = out.first.view.as<int64_t>();
  problem.logprobs = out.second.view.as<float>();
  auto* kernel = logits.dtype == DType::f32 ? sample_f32_sm80 : sample_bf16_sm80;
  launch_on_device_of(logits, check.op(), [&](cudaStream_t stream) { kernel(problem, stream); });
  return out;
}

}  // namespace

void bind_sampling_cuda(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("sample", &sample, py::arg("logits"), py::arg("seed"), py::arg("position"),
        py::arg("temperature"));
}

}  // namespace mn
