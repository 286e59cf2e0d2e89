// Arguments to problems, with every check that needs no tensor's values: shared by the CPU and the
// CUDA bindings, which make the outputs afterwards.
#pragma once

#include <optional>
#include <string_view>

#include "routing/problem.h"
#include "runtime/check.h"

namespace mn {

using MaybeTensor = std::optional<Tensor>;

struct RouteArguments {
  const Tensor& logits;
  const MaybeTensor& bias;
  int64_t top_k;
  std::string_view scoring;
  bool normalize;
  double scaling;
  int64_t n_group, topk_group;
  const MaybeTensor& replay_ids;
};

RouteProblem route_problem(const Check& check, const RouteArguments& arguments);

struct RouteBackwardArguments {
  const Tensor& logits;
  const Tensor& ids;
  std::string_view scoring;
  bool normalize;
  double scaling;
  const MaybeTensor& grad_weights;
  const MaybeTensor& grad_mean_score;
};

RouteBackwardProblem route_backward_problem(const Check& check,
                                            const RouteBackwardArguments& arguments);

}  // namespace mn
