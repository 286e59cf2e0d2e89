#include "routing/validate.h"

#include <cmath>

namespace mn {
namespace {

RouteRule rule_of(const Check& check, std::string_view scoring, bool normalize, double scaling) {
  if (scoring != "sigmoid" && scoring != "softmax")
    check.fail("scoring", "'sigmoid' or 'softmax'", std::string(scoring));
  if (!std::isfinite(scaling)) check.fail("scaling", "a finite number", std::to_string(scaling));
  return {scoring == "sigmoid" ? Scoring::sigmoid : Scoring::softmax, normalize,
          static_cast<float>(scaling)};
}

void check_logits(const Check& check, const Tensor& logits) {
  check.shape(logits, "logits", {kAny, kAny}, "[T, E]");
  check.on_device(logits, "logits");
  check.dtype(logits, "logits", {DType::f32});
  check.last_dim_contiguous(logits, "logits");
  check.range(logits.shape[1], "the experts of logits", 1, kRouteMaxExperts);
}

void check_selection(const Check& check, int64_t experts, int64_t top_k, int64_t groups,
                     int64_t open_groups) {
  check.range(top_k, "top_k", 1, experts);
  const bool fits = groups == 1 || (groups > 1 && experts % groups == 0 && experts / groups >= 2);
  if (!fits)
    check.fail("n_group", "groups of equal size >= 2 of " + std::to_string(experts) + " experts",
               std::to_string(groups));
  if (open_groups < 1 || open_groups > groups || open_groups * (experts / groups) < top_k)
    check.fail("topk_group",
               "1 to " + std::to_string(groups) + " groups that hold at least " +
                   std::to_string(top_k) + " experts",
               std::to_string(open_groups));
}

}  // namespace

RouteProblem route_problem(const Check& check, const RouteArguments& a) {
  check_logits(check, a.logits);
  const int64_t tokens = a.logits.shape[0], experts = a.logits.shape[1];
  if (a.bias) {
    check.shape(*a.bias, "bias", {experts}, "[E]");
    check.same_device(*a.bias, "bias", a.logits, "logits");
    check.dtype(*a.bias, "bias", {DType::f32});
    check.contiguous(*a.bias, "bias");
  }
  check_selection(check, experts, a.top_k, a.n_group, a.topk_group);
  if (a.replay_ids) {
    check.shape(*a.replay_ids, "replay_ids", {tokens, a.top_k}, "[T, K]");
    check.same_device(*a.replay_ids, "replay_ids", a.logits, "logits");
    check.dtype(*a.replay_ids, "replay_ids", {DType::u8, DType::i16, DType::i32, DType::i64});
    check.last_dim_contiguous(*a.replay_ids, "replay_ids");
  }
  return {.tokens = tokens,
          .experts = experts,
          .top_k = a.top_k,
          .groups = a.n_group,
          .open_groups = a.topk_group,
          .rule = rule_of(check, a.scoring, a.normalize, a.scaling),
          .logits = a.logits.as<float>(),
          .logits_stride = a.logits.stride[0],
          .bias = a.bias ? a.bias->as<float>() : nullptr,
          .replay = a.replay_ids.has_value(),
          .ids = nullptr,
          .weights = nullptr,
          .job_shares = nullptr,
          .job_counts = nullptr};
}

RouteBackwardProblem route_backward_problem(const Check& check, const RouteBackwardArguments& a) {
  check_logits(check, a.logits);
  if (a.grad_weights) check.contiguous(*a.grad_weights, "grad_weights");
  if (a.grad_mean_score) check.contiguous(*a.grad_mean_score, "grad_mean_score");
  return {.tokens = a.logits.shape[0],
          .experts = a.logits.shape[1],
          .top_k = a.ids.shape[1],
          .rule = rule_of(check, a.scoring, a.normalize, a.scaling),
          .logits = a.logits.as<float>(),
          .logits_stride = a.logits.stride[0],
          .ids = a.ids.as<int32_t>(),
          .grad_weights = a.grad_weights ? a.grad_weights->as<float>() : nullptr,
          .grad_mean_score = a.grad_mean_score ? a.grad_mean_score->as<float>() : nullptr,
          .grad_logits = nullptr};
}

}  // namespace mn
