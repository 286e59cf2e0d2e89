#include "sampling/validate.h"

#include <cstdint>

namespace mn {
namespace {

class PerRow {
 public:
  PerRow(const Check& check, const Tensor& logits) : check_(check), logits_(logits) {}

  template <class T>
  const T* required(const Tensor& t, const char* argument, DType dtype) const {
    check_.shape(t, argument, {logits_.shape[0]}, "[B]");
    check_.same_device(t, argument, logits_, "logits");
    check_.dtype(t, argument, {dtype});
    check_.contiguous(t, argument);
    return t.as<T>();
  }
  template <class T>
  const T* optional(const MaybeTensor& t, const char* argument, DType dtype) const {
    return t ? required<T>(*t, argument, dtype) : nullptr;
  }

 private:
  const Check& check_;
  const Tensor& logits_;
};

}  // namespace

SampleProblem sample_problem(const Check& check, const SampleArguments& a) {
  check.shape(a.logits, "logits", {kAny, kAny}, "[B, V]");
  check.on_device(a.logits, "logits");
  check.dtype(a.logits, "logits", {DType::f32, DType::bf16});
  check.last_dim_contiguous(a.logits, "logits");
  check.range(a.logits.shape[1], "the vocabulary of logits", 1, INT32_MAX - kSoftmaxChunk);
  const PerRow row(check, a.logits);
  SampleProblem problem{};
  problem.rows = a.logits.shape[0];
  problem.vocab = a.logits.shape[1];
  problem.logits = a.logits.data;
  problem.logits_stride = a.logits.stride[0];
  problem.seed = row.required<int64_t>(a.seed, "seed", DType::i64);
  problem.position = row.required<int64_t>(a.position, "position", DType::i64);
  problem.temperature = row.optional<float>(a.temperature, "temperature", DType::f32);
  problem.top_k = row.optional<int32_t>(a.top_k, "top_k", DType::i32);
  problem.top_p = row.optional<float>(a.top_p, "top_p", DType::f32);
  problem.min_p = row.optional<float>(a.min_p, "min_p", DType::f32);
  problem.repetition_penalty =
      row.optional<float>(a.repetition_penalty, "repetition_penalty", DType::f32);
  problem.presence_penalty =
      row.optional<float>(a.presence_penalty, "presence_penalty", DType::f32);
  problem.frequency_penalty =
      row.optional<float>(a.frequency_penalty, "frequency_penalty", DType::f32);
  problem.prompt_lens = row.optional<int32_t>(a.prompt_lens, "prompt_lens", DType::i32);
  const bool penalties =
      problem.repetition_penalty || problem.presence_penalty || problem.frequency_penalty;
  if (penalties) {
    if (!a.history)
      check.fail("history", "[B, H] token ids for the penalties", "None",
                 "Pass the token ids so far; a row without any is all -1.");
    check.shape(*a.history, "history", {problem.rows, kAny}, "[B, H]");
    check.same_device(*a.history, "history", a.logits, "logits");
    check.dtype(*a.history, "history", {DType::i32});
    check.contiguous(*a.history, "history");
    problem.history = a.history->as<int32_t>();
    problem.history_len = a.history->shape[1];
  }
  return problem;
}

}  // namespace mn
