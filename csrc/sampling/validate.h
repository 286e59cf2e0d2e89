// Arguments to a problem, with every check that needs no tensor's values: shared by the CPU and the
// CUDA bindings, which make the outputs afterwards.
#pragma once

#include <optional>

#include "runtime/check.h"
#include "sampling/problem.h"

namespace mn {

using MaybeTensor = std::optional<Tensor>;

struct SampleArguments {
  const Tensor& logits;
  const Tensor& seed;
  const Tensor& position;
  const MaybeTensor& temperature;
  const MaybeTensor& top_k;
  const MaybeTensor& top_p;
  const MaybeTensor& min_p;
  const MaybeTensor& repetition_penalty;
  const MaybeTensor& presence_penalty;
  const MaybeTensor& frequency_penalty;
  const MaybeTensor& history;
  const MaybeTensor& prompt_lens;
};

// Without scratch.
SampleProblem sample_problem(const Check& check, const SampleArguments& arguments);

}  // namespace mn
