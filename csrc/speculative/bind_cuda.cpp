#include "runtime/cuda/launch.h"
#include "runtime/cuda/module.h"
#include "runtime/new_tensor.h"
#include "speculative/kernels_cuda.h"

namespace mn {
namespace {

const int64_t* node_numbers(const Check& check, const Tensor& t, const char* argument,
                            const Tensor& tokens) {
  check.shape(t, argument, {tokens.shape[0]}, "[N]");
  check.dtype(t, argument, {DType::i64});
  check.same_device(t, argument, tokens, "tokens");
  check.contiguous(t, argument);
  return t.as<int64_t>();
}

int64_t node_count(const Check& check, const Tensor& tokens) {
  check.shape(tokens, "tokens", {kAny}, "[N]");
  check.on_device(tokens, "tokens");
  const int64_t nodes = tokens.shape[0];
  if (nodes < 1 || nodes > kMostNodes)
    check.fail("tokens", "1 to " + std::to_string(kMostNodes) + " nodes", std::to_string(nodes));
  return nodes;
}

// depths, ancestors, positions [N], fault [1]
std::tuple<NewTensor, NewTensor, NewTensor, NewTensor> build_draft_tree(const Tensor& tokens,
                                                                        const Tensor& parents,
                                                                        int64_t root_position) {
  const Check check("build_draft_tree", kCudaDevice);
  DraftTreeProblem p{};
  p.nodes = node_count(check, tokens);
  p.tokens = node_numbers(check, tokens, "tokens", tokens);
  p.parents = node_numbers(check, parents, "parents", tokens);
  p.root_position = root_position;
  const auto make = [&](int64_t count) { return new_tensor(tokens, DType::i64, {count}); };
  std::tuple out{make(p.nodes), make(p.nodes), make(p.nodes), make(1)};
  p.depths = std::get<0>(out).view.as<int64_t>();
  p.ancestors = std::get<1>(out).view.as<int64_t>();
  p.positions = std::get<2>(out).view.as<int64_t>();
  auto* fault = std::get<3>(out).view.as<int64_t>();
  launch_on_device_of(tokens, check.op(),
                      [&](cudaStream_t stream) { build_tree_sm80(p, fault, stream); });
  return out;
}

// visited [N], count [1]
std::pair<NewTensor, NewTensor> walk_tree(const Tensor& tokens, const Tensor& parents,
                                          const Tensor& drawn) {
  const Check check("verify_tree", kCudaDevice);
  WalkProblem p{};
  p.nodes = node_count(check, tokens);
  p.tokens = node_numbers(check, tokens, "tokens", tokens);
  p.parents = node_numbers(check, parents, "parents", tokens);
  p.drawn = node_numbers(check, drawn, "drawn", tokens);
  std::pair out{new_tensor(tokens, DType::i64, {p.nodes}), new_tensor(tokens, DType::i64, {1})};
  p.visited = out.first.view.as<int64_t>();
  p.count = out.second.view.as<int64_t>();
  launch_on_device_of(tokens, check.op(), [&](cudaStream_t stream) { walk_tree_sm80(p, stream); });
  return out;
}

}  // namespace

void bind_speculative_cuda(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("build_draft_tree", &build_draft_tree, py::arg("tokens"), py::arg("parents"),
        py::arg("root_position"));
  m.def("walk_tree", &walk_tree, py::arg("tokens"), py::arg("parents"), py::arg("drawn"));
}

}  // namespace mn
