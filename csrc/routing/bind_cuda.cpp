#include <pybind11/stl.h>

#include "routing/kernels_cuda.h"
#include "routing/validate.h"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/module.h"
#include "runtime/new_tensor.h"

namespace mn {
namespace {

using Routed = std::tuple<NewTensor, NewTensor, std::optional<NewTensor>, std::optional<NewTensor>>;

// Values stay on the device and are not checked.
Routed route(const Tensor& logits, const MaybeTensor& bias, int64_t top_k, std::string_view scoring,
             bool normalize, double scaling, int64_t n_group, int64_t topk_group,
             const MaybeTensor& replay_ids, bool stats) {
  const Check check("route", kCudaDevice);
  RouteSm80Problem problem{};
  problem.route = route_problem(
      check, {logits, bias, top_k, scoring, normalize, scaling, n_group, topk_group, replay_ids});
  if (replay_ids) {
    problem.replay_ids = replay_ids->data;
    problem.replay_dtype = replay_ids->dtype;
    problem.replay_stride = replay_ids->stride[0];
  }
  gpu_of(logits.device_index, check.op());
  const int64_t tokens = problem.route.tokens, experts = problem.route.experts;
  Routed out{new_tensor(logits, DType::i32, {tokens, top_k}),
             new_tensor(logits, DType::f32, {tokens, top_k}), std::nullopt, std::nullopt};
  auto& [ids, weights, counts, mean_score] = out;
  problem.route.ids = ids.view.as<int32_t>();
  problem.route.weights = weights.view.as<float>();
  std::optional<NewTensor> scales;
  if (stats) {
    counts = new_tensor(logits, DType::i64, {experts});
    mean_score = new_tensor(logits, DType::f32, {experts});
    scales = new_tensor(logits, DType::f32, {tokens, 2});
    problem.counts = counts->view.as<unsigned long long>();
    problem.scales = scales->view.as<float2>();
    problem.mean_score = mean_score->view.as<float>();
  }
  launch_on_device_of(logits, check.op(),
                      [&](cudaStream_t stream) { route_sm80(problem, stream); });
  return out;
}

}  // namespace

void bind_routing_cuda(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("route", &route, py::arg("logits"), py::arg("bias"), py::arg("top_k"), py::arg("scoring"),
        py::arg("normalize"), py::arg("scaling"), py::arg("n_group"), py::arg("topk_group"),
        py::arg("replay_ids"), py::arg("stats"));
}

}  // namespace mn
