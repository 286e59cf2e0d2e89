#include <omp.h>
#include <pybind11/stl.h>

#include <array>
#include <cfloat>
#include <optional>
#include <vector>

#include "runtime/check.h"
#include "runtime/module.h"
#include "runtime/scratch.h"
#include "runtime/tensor_caster.h"
#include "speculative/problem.h"

namespace mn {
namespace {

void check_nodes(const Check& check, const Tensor& tokens, const Tensor& parents) {
  check.shape(tokens, "tokens", {kAny}, "[N]");
  const int64_t nodes = tokens.shape[0];
  if (nodes < 1 || nodes > kMostNodes)
    check.fail("tokens", "1 to " + std::to_string(kMostNodes) + " nodes", std::to_string(nodes));
  check.shape(parents, "parents", {nodes}, "[N]");
  for (const auto& [tensor, name] : {std::pair{&tokens, "tokens"}, {&parents, "parents"}}) {
    check.dtype(*tensor, name, {DType::i64});
    check.on_cpu(*tensor, name);
    check.contiguous(*tensor, name);
  }
  const auto* above = parents.as<int64_t>();
  const TreeCheck found = check_tree(nodes, tokens.as<int64_t>(), above);
  const std::string node = std::to_string(found.node);
  switch (found.fault) {
    case TreeFault::none:
      return;
    case TreeFault::root:
      check.fail("parents", "-1 for the root, node 0", std::to_string(above[0]));
    case TreeFault::order:
      check.fail("parents", "a parent in [0, " + node + ") for node " + node,
                 std::to_string(above[found.node]));
    case TreeFault::twins:
      check.fail("tokens", "distinct tokens among siblings",
                 std::to_string(tokens.as<int64_t>()[found.node]) + " again at node " + node);
  }
}

void build_draft_tree(const Tensor& tokens, const Tensor& parents, int64_t root_position,
                      const Tensor& depths, const Tensor& ancestors, const Tensor& positions) {
  check_nodes(Check("build_draft_tree"), tokens, parents);
  build_tree({tokens.shape[0], tokens.as<int64_t>(), parents.as<int64_t>(), root_position,
              depths.as<int64_t>(), ancestors.as<int64_t>(), positions.as<int64_t>()});
}

template <class T>
const T* control(const Check& check, const char* argument, const std::optional<T>& value, T low,
                 T high) {
  if (!value) return nullptr;
  if (!(*value >= low && *value <= high))
    check.fail(argument, "a value in [" + std::to_string(low) + ", " + std::to_string(high) + "]",
               std::to_string(*value));
  return &*value;
}

// -> [A + 1] drawn tokens, [A] accepted nodes and [A + 1] log-probabilities
std::tuple<std::vector<int64_t>, std::vector<int64_t>, std::vector<float>> verify(
    const Tensor& logits, const Tensor& tokens, const Tensor& parents, int64_t seed,
    int64_t position, std::optional<float> temperature, std::optional<int32_t> top_k,
    std::optional<float> top_p, std::optional<float> min_p, std::optional<float> repetition_penalty,
    std::optional<float> presence_penalty, std::optional<float> frequency_penalty,
    const std::optional<Tensor>& history, int32_t prompt_len) {
  const Check check("verify_tree");
  check_nodes(check, tokens, parents);
  const int64_t nodes = tokens.shape[0];
  check.shape(logits, "logits", {nodes, kAny}, "[N, V]");
  check.dtype(logits, "logits", {DType::f32, DType::bf16});
  check.on_cpu(logits, "logits");
  check.last_dim_contiguous(logits, "logits");
  check.range(logits.shape[1], "logits", 1, INT32_MAX);
  check.range(position, "position", 0, INT64_MAX - kMostNodes);

  VerifyProblem p{};
  p.nodes = nodes;
  p.tokens = tokens.as<int64_t>();
  p.parents = parents.as<int64_t>();
  p.logits = logits.data;
  p.row_bytes = logits.stride[0] * size_of(logits.dtype);
  p.position = position;
  p.draw.rows = 1;
  p.draw.vocab = logits.shape[1];
  p.draw.seed = &seed;
  p.draw.temperature = control(check, "temperature", temperature, 0.f, FLT_MAX);
  p.draw.top_k = control(check, "top_k", top_k, 0, INT32_MAX);
  p.draw.top_p = control(check, "top_p", top_p, 0.f, 1.f);
  p.draw.min_p = control(check, "min_p", min_p, 0.f, 1.f);
  p.draw.repetition_penalty =
      control(check, "repetition_penalty", repetition_penalty, 1e-6f, FLT_MAX);
  p.draw.presence_penalty = control(check, "presence_penalty", presence_penalty, -FLT_MAX, FLT_MAX);
  p.draw.frequency_penalty =
      control(check, "frequency_penalty", frequency_penalty, -FLT_MAX, FLT_MAX);
  check.range(prompt_len, "prompt_len", 0, INT32_MAX);
  p.draw.prompt_lens = &prompt_len;
  std::vector<int32_t> past;
  if (history) {
    check.shape(*history, "history", {kAny}, "[H]");
    check.dtype(*history, "history", {DType::i32});
    check.on_cpu(*history, "history");
    check.contiguous(*history, "history");
    const auto* ids = history->as<int32_t>();
    p.history_len = history->shape[0];
    for (int64_t i = 0; i < p.history_len; ++i)
      if (ids[i] < -1 || ids[i] >= p.draw.vocab)
        check.fail("history", "ids in [0, " + std::to_string(p.draw.vocab) + "), -1 as padding",
                   std::to_string(ids[i]));
    past.assign(ids, ids + p.history_len);
    past.resize(static_cast<size_t>(p.history_len + nodes));
    p.history = past.data();
  } else if (repetition_penalty || presence_penalty || frequency_penalty) {
    check.fail("history", "the tokens so far, which penalties look at", "None");
  }
  std::vector<int64_t> path(static_cast<size_t>(nodes)), drawn(static_cast<size_t>(nodes));
  std::vector<float> logprobs(static_cast<size_t>(nodes));
  p.path = path.data();
  p.drawn = drawn.data();
  p.logprobs = logprobs.data();
  SampleProblem longest = p.draw;
  longest.history_len = p.history_len + nodes;
  p.draw.layout = plan_sample_scratch(longest);
  const SamplingKernels& kernels = sampling_kernels_for_isa();
  p.sample = logits.dtype == DType::f32 ? kernels.sample_f32 : kernels.sample_bf16;
  int64_t count = 0;
  {
    const pybind11::gil_scoped_release release;
    p.draw.scratch = scratch(p.draw.layout.bytes * omp_get_max_threads());
    count = verify_tree(p);
  }
  if (count == 0)
    check.fail("logits", "rows that are finite or -inf, one finite in each",
               "NaN, +inf or a row of -inf");
  drawn.resize(static_cast<size_t>(count));
  logprobs.resize(static_cast<size_t>(count));
  path.resize(static_cast<size_t>(count - 1));
  return {drawn, path, logprobs};
}

}  // namespace

void bind_speculative(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("build_draft_tree", &build_draft_tree, py::arg("tokens"), py::arg("parents"),
        py::arg("root_position"), py::arg("depths"), py::arg("ancestors"), py::arg("positions"));
  m.def("verify_tree", &verify, py::arg("logits"), py::arg("tokens"), py::arg("parents"),
        py::arg("seed"), py::arg("position"), py::arg("temperature"), py::arg("top_k"),
        py::arg("top_p"), py::arg("min_p"), py::arg("repetition_penalty"),
        py::arg("presence_penalty"), py::arg("frequency_penalty"), py::arg("history"),
        py::arg("prompt_len"));
}

}  // namespace mn
