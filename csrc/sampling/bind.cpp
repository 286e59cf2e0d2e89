#include <omp.h>
#include <pybind11/stl.h>

#include <array>
#include <cfloat>
#include <cmath>

#include "runtime/module.h"
#include "runtime/new_tensor.h"
#include "runtime/scratch.h"
#include "sampling/philox.h"
#include "sampling/validate.h"

namespace mn {
namespace {

template <class T>
void check_values(const Check& check, const char* argument, const T* values, int64_t rows, T low,
                  T high) {
  if (!values) return;
  for (int64_t b = 0; b < rows; ++b)
    if (!(values[b] >= low && values[b] <= high))
      check.fail(argument, "values in [" + std::to_string(low) + ", " + std::to_string(high) + "]",
                 std::to_string(values[b]) + " in row " + std::to_string(b));
}

void check_controls(const Check& check, const SampleProblem& p) {
  check_values<int64_t>(check, "position", p.position, p.rows, 0, INT64_MAX);
  check_values(check, "temperature", p.temperature, p.rows, 0.f, FLT_MAX);
  check_values(check, "top_k", p.top_k, p.rows, 0, INT32_MAX);
  check_values(check, "top_p", p.top_p, p.rows, 0.f, 1.f);
  check_values(check, "min_p", p.min_p, p.rows, 0.f, 1.f);
  check_values(check, "repetition_penalty", p.repetition_penalty, p.rows, 1e-6f, FLT_MAX);
  check_values(check, "presence_penalty", p.presence_penalty, p.rows, -FLT_MAX, FLT_MAX);
  check_values(check, "frequency_penalty", p.frequency_penalty, p.rows, -FLT_MAX, FLT_MAX);
  check_values(check, "prompt_lens", p.prompt_lens, p.rows, 0, INT32_MAX);
  for (int64_t i = 0; i < p.rows * p.history_len; ++i)
    if (p.history[i] < -1 || p.history[i] >= p.vocab)
      check.fail("history", "ids in [0, " + std::to_string(p.vocab) + "), -1 as padding",
                 std::to_string(p.history[i]) + " in row " + std::to_string(i / p.history_len));
}

double value_at(const Tensor& logits, int64_t row, int64_t id) {
  const int64_t i = row * logits.stride[0] + id;
  if (logits.dtype == DType::f32) return static_cast<double>(logits.as<float>()[i]);
  const uint32_t bits = static_cast<uint32_t>(logits.as<uint16_t>()[i]) << 16;
  return static_cast<double>(std::bit_cast<float>(bits));
}

[[noreturn]] void fail_on_logits(const Check& check, const Tensor& logits) {
  const char* expected = "logits that are finite or -inf, one finite in every row";
  for (int64_t b = 0; b < logits.shape[0]; ++b)
    for (int64_t v = 0; v < logits.shape[1]; ++v)
      if (const double x = value_at(logits, b, v); !(x < INFINITY))
        check.fail(
            "logits", expected,
            std::to_string(x) + " in row " + std::to_string(b) + ", id " + std::to_string(v));
  check.fail("logits", expected, "a row of -inf");
}

std::pair<NewTensor, NewTensor> sample(
    const Tensor& logits, const Tensor& seed, const Tensor& position,
    const MaybeTensor& temperature, const MaybeTensor& top_k, const MaybeTensor& top_p,
    const MaybeTensor& min_p, const MaybeTensor& repetition_penalty,
    const MaybeTensor& presence_penalty, const MaybeTensor& frequency_penalty,
    const MaybeTensor& history, const MaybeTensor& prompt_lens, const MaybeTensor& coins) {
  const Check check("sample");
  SampleProblem problem = sample_problem(
      check, {logits, seed, position, temperature, top_k, top_p, min_p, repetition_penalty,
              presence_penalty, frequency_penalty, history, prompt_lens});
  check_controls(check, problem);
  if (coins) problem.coins = coins->as<double>();
  problem.layout = plan_sample_scratch(problem);
  std::pair out{new_tensor(logits, DType::i64, {problem.rows}),
                new_tensor(logits, DType::f32, {problem.rows})};
  problem.ids = out.first.view.as<int64_t>();
  problem.logprobs = out.second.view.as<float>();
  const SamplingKernels& kernels = sampling_kernels_for_isa();
  {
    const pybind11::gil_scoped_release release;
    problem.scratch = scratch(problem.layout.bytes * omp_get_max_threads());
    if ((logits.dtype == DType::f32 ? kernels.sample_f32 : kernels.sample_bf16)(problem))
      return out;
  }
  fail_on_logits(check, logits);
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const PhiloxWords words =
      philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {words.w[0], words.w[1], words.w[2], words.w[3]};
}

}  // namespace

void bind_sampling(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("sample", &sample, py::arg("logits"), py::arg("seed"), py::arg("position"),
        py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"),
        py::arg("repetition_penalty"), py::arg("presence_penalty"), py::arg("frequency_penalty"),
        py::arg("history"), py::arg("prompt_lens"), py::arg("coins") = py::none(),
        "`coins` [B] float64 in [0, 1) replace the generator's, for tests.");
  m.def("philox4x32_10", &philox, py::arg("counter"), py::arg("key"));
  m.def("philox_uniform", &philox_uniform, py::arg("seed"), py::arg("position"));
}

}  // namespace mn
