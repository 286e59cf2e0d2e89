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

NewTensor bind_rope_table(const Tensor& positions, double theta, int64_t rotary_dim) {
  RopeTableProblem problem{};
  const Check check("rope_table", kCudaDevice);
  problem.tokens = rope_table_tokens(check, positions, theta, rotary_dim);
  if (rotary_dim > 2 * kMostRopePairs)
    throw UnsupportedError(
        check.op(),
        {"the CUDA kernel has room for a rotary_dim of " + std::to_string(2 * kMostRopePairs) +
         ", this is " + std::to_string(rotary_dim)},
        "Make the table on the CPU and move it.");
  problem.half = static_cast<int>(rotary_dim / 2);
  for (int j = 0; j < problem.half; ++j)
    problem.frequency[j] = rope_frequency(theta, rotary_dim, j);
  NewTensor table = new_tensor(positions, DType::f32, {problem.tokens, rotary_dim});
  problem.positions = positions.as<int64_t>();
  problem.table = table.view.as<float>();
  launch_on_device_of(positions, check.op(),
                      [&](cudaStream_t stream) { rope_table_sm80(problem, stream); });
  return table;
}

using Turned = std::tuple<NewTensor, NewTensor, NewTensor>;

// The problem's inputs are those of the tensors, and checked.
Turned turned(const Check& check, RopeProblem problem, const RopeCacheSm80* cache, const Tensor& q,
              const Tensor& k, const Tensor& v) {
  Turned out{new_tensor_like(q), new_tensor_like(k), new_tensor_like(v)};
  problem.q.out = std::get<0>(out).view.data;
  problem.k.out = std::get<1>(out).view.data;
  problem.v.out = std::get<2>(out).view.data;
  auto* kernel = q.dtype == DType::f32 ? rope_f32_sm80 : rope_bf16_sm80;
  launch_on_device_of(q, check.op(), [&](cudaStream_t stream) { kernel(problem, cache, stream); });
  return out;
}

Turned rope(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
            double value_scale, bool opposite) {
  const Check check("rope", kCudaDevice);
  const RopeProblem problem = rope_problem(check, q, k, v, table, value_scale, opposite);
  return turned(check, problem, nullptr, q, k, v);
}

// Rows and positions are read on the device, unchecked: tokens with others are not stored.
Turned rope_cached(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                   double value_scale, const Tensor& cache_keys, const Tensor& cache_values,
                   const Tensor& rows, const Tensor& positions) {
  const Check check("rope_cached", kCudaDevice);
  const RopeProblem problem = rope_problem(check, q, k, v, table, value_scale, false);
  check.shape(cache_keys, "layer_cache.keys", {kAny, problem.k.heads, kAny, problem.k.dim},
              "[B, Hkv, capacity, Dqk]");
  RopeCacheSm80 cache{};
  cache.cache_rows = cache_keys.shape[0];
  cache.capacity = cache_keys.shape[2];
  check.shape(cache_values, "layer_cache.values",
              {cache.cache_rows, problem.k.heads, cache.capacity, problem.v.dim},
              "[B, Hkv, capacity, Dv]");
  check.shape(v, "v", {q.shape[0], problem.k.heads, kAny}, "[N, Hkv, Dv]");
  const std::pair<const Tensor*, const char*> stored[] = {{&cache_keys, "layer_cache.keys"},
                                                          {&cache_values, "layer_cache.values"}};
  for (const auto& [tensor, name] : stored) {
    check.same_device(*tensor, name, q, "q");
    check.same_dtype(*tensor, name, q, "q");
    check.contiguous(*tensor, name);
  }
  const std::pair<const Tensor*, const char*> places[] = {{&rows, "rows"},
                                                          {&positions, "positions"}};
  for (const auto& [tensor, name] : places) {
    check.shape(*tensor, name, {q.shape[0]}, "[N]");
    check.same_device(*tensor, name, q, "q");
    check.dtype(*tensor, name, {DType::i64});
    check.contiguous(*tensor, name);
  }
  cache.rows = rows.as<int64_t>();
  cache.positions = positions.as<int64_t>();
  cache.keys = cache_keys.data;
  cache.values = cache_values.data;
  return turned(check, problem, &cache, q, k, v);
}

}  // namespace

void bind_norm_rope_cuda(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("rms_norm", &rms_norm, py::arg("x"), py::arg("weight"), py::arg("eps"));
  m.def("rope_table", &bind_rope_table, py::arg("positions"), py::arg("theta"),
        py::arg("rotary_dim"));
  m.def("rope", &rope, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("table"),
        py::arg("value_scale"), py::arg("opposite"));
  m.def("rope_cached", &rope_cached, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("table"),
        py::arg("value_scale"), py::arg("cache_keys"), py::arg("cache_values"), py::arg("rows"),
        py::arg("positions"));
}

}  // namespace mn
