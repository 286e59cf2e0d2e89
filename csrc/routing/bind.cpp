#include <pybind11/stl.h>

#include <bitset>
#include <cmath>
#include <vector>

#include "routing/run.h"
#include "routing/validate.h"
#include "runtime/module.h"
#include "runtime/new_tensor.h"

namespace mn {
namespace {

void check_bias_values(const Check& check, const Tensor& bias) {
  const float* b = bias.as<float>();
  bool good = true;  // no early end, so that the loop is vectorised: it is run in every call
  for (int64_t e = 0; e < bias.shape[0]; ++e) good &= b[e] < INFINITY;
  if (good) return;
  for (int64_t e = 0; e < bias.shape[0]; ++e)
    if (!(b[e] < INFINITY))
      check.fail("bias", "values that are finite or -inf",
                 std::to_string(b[e]) + " at expert " + std::to_string(e));
}

int64_t integer_at(const Tensor& t, int64_t row, int64_t column) {
  const int64_t i = row * t.stride[0] + column;
  switch (t.dtype) {
    case DType::u8:
      return t.as<uint8_t>()[i];
    case DType::i16:
      return t.as<int16_t>()[i];
    case DType::i32:
      return t.as<int32_t>()[i];
    default:
      return t.as<int64_t>()[i];
  }
}

void check_replay_values(const Check& check, const Tensor& given, int64_t experts) {
  for (int64_t t = 0; t < given.shape[0]; ++t) {
    std::bitset<kRouteMaxExperts> seen;
    for (int64_t k = 0; k < given.shape[1]; ++k) {
      const int64_t id = integer_at(given, t, k);
      if (id < 0 || id >= experts)
        check.fail("replay_ids", "expert ids in [0, " + std::to_string(experts) + ")",
                   std::to_string(id) + " at token " + std::to_string(t));
      if (seen[static_cast<size_t>(id)])
        check.fail("replay_ids", "distinct ids in every row",
                   std::to_string(id) + " twice at token " + std::to_string(t));
      seen.set(static_cast<size_t>(id));
    }
  }
}

constexpr int64_t kManyTokens = 64;

using Routed = std::tuple<NewTensor, NewTensor, std::optional<NewTensor>, std::optional<NewTensor>>;

Routed route(const Tensor& logits, const MaybeTensor& bias, int64_t top_k, std::string_view scoring,
             bool normalize, double scaling, int64_t n_group, int64_t topk_group,
             const MaybeTensor& replay_ids, bool stats) {
  const Check check("route");
  RouteProblem problem = route_problem(
      check, {logits, bias, top_k, scoring, normalize, scaling, n_group, topk_group, replay_ids});
  if (bias) check_bias_values(check, *bias);
  if (replay_ids) check_replay_values(check, *replay_ids, problem.experts);

  Routed out{new_tensor(logits, DType::i32, {problem.tokens, top_k}),
             new_tensor(logits, DType::f32, {problem.tokens, top_k}), std::nullopt, std::nullopt};
  auto& [ids, weights, counts, mean_score] = out;
  problem.ids = ids.view.as<int32_t>();
  problem.weights = weights.view.as<float>();
  if (replay_ids)
    for (int64_t t = 0; t < problem.tokens; ++t)
      for (int64_t k = 0; k < top_k; ++k)
        problem.ids[t * top_k + k] = static_cast<int32_t>(integer_at(*replay_ids, t, k));
  std::vector<float> shares;
  std::vector<int32_t> chosen;
  if (stats) {
    counts = new_tensor(logits, DType::i64, {problem.experts});
    mean_score = new_tensor(logits, DType::f32, {problem.experts});
    shares.resize(static_cast<size_t>(route_jobs(problem.tokens) * problem.experts));
    chosen.resize(shares.size());
    problem.job_shares = shares.data();
    problem.job_counts = chosen.data();
  }
  // A few tokens take less time than the lock.
  std::optional<pybind11::gil_scoped_release> release;
  if (problem.tokens >= kManyTokens) release.emplace();
  run_route(check, problem);
  if (stats) reduce_route_stats(problem, counts->view.as<int64_t>(), mean_score->view.as<float>());
  return out;
}

NewTensor route_backward(const Tensor& logits, const Tensor& ids, std::string_view scoring,
                         bool normalize, double scaling, const MaybeTensor& grad_weights,
                         const MaybeTensor& grad_mean_score) {
  RouteBackwardProblem problem = route_backward_problem(
      Check("route backward"),
      {logits, ids, scoring, normalize, scaling, grad_weights, grad_mean_score});
  NewTensor grad_logits = new_tensor_like(logits);
  problem.grad_logits = grad_logits.view.as<float>();
  const RoutingKernels& kernels = routing_kernels_for_isa();
  const pybind11::gil_scoped_release release;
  kernels.route_backward(problem);
  return grad_logits;
}

}  // namespace

void bind_routing(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("route", &route, py::arg("logits"), py::arg("bias"), py::arg("top_k"), py::arg("scoring"),
        py::arg("normalize"), py::arg("scaling"), py::arg("n_group"), py::arg("topk_group"),
        py::arg("replay_ids"), py::arg("stats"));
  m.def("route_backward", &route_backward, py::arg("logits"), py::arg("ids"), py::arg("scoring"),
        py::arg("normalize"), py::arg("scaling"), py::arg("grad_weights"),
        py::arg("grad_mean_score"));
}

}  // namespace mn
