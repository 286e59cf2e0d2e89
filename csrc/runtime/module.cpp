#include "runtime/module.h"

#include <omp.h>
#include <pybind11/stl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/errors_python.h"
#include "runtime/isa.h"
#include "runtime/new_tensor.h"
#include "runtime/tensor_caster.h"

namespace mn {
namespace {

std::vector<std::string> isa_levels() {
  std::vector<std::string> names;
  for (int i = 0; i < kIsaCount; ++i)
    if (isa_supported(Isa(i))) names.emplace_back(kIsaNames[i]);
  return names;
}

void set_isa(const std::string& wanted) {
  for (int i = 0; i < kIsaCount; ++i)
    if (wanted == kIsaNames[i] && isa_supported(Isa(i))) return isa_set(Isa(i));
  std::string available;
  for (const std::string& level : isa_levels())
    available += (available.empty() ? "" : ", ") + level;
  throw ShapeError("set_isa", "level", "one of " + available, wanted,
                   "Unset MIMO_NATIVE_ISA to take the best level of this CPU.");
}

// Asks for 2 MiB pages: a single read stream is 1.6 times as fast with them, and memory that is
// written for the first time costs a fault per page. Advice only; failure changes nothing.
bool advise_huge_pages(const Tensor& storage) {
#ifdef MADV_HUGEPAGE
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(storage.data);
  const auto end = begin + static_cast<uintptr_t>(storage.numel() * size_of(storage.dtype));
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  return first < last && madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE) == 0;
#else
  return false;
#endif
}

}  // namespace

void bind_runtime(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("isa_levels", &isa_levels, "Levels this CPU can run, weakest first.");
  m.def("isa", [] { return kIsaNames[static_cast<int>(isa_current())]; }, "The level in use.");
  m.def("set_isa", &set_isa, py::arg("level"));
  m.def("advise_huge_pages", &advise_huge_pages, py::arg("storage"));
  m.def(
      "empty",
      [](const Tensor& like, const std::vector<int64_t>& shape) {
        return new_tensor(like, like.dtype, shape);
      },
      py::arg("like"), py::arg("shape"),
      "A dense tensor of like's dtype on its device; a large one's memory is kept for reuse.");
  m.def("max_threads", [] { return omp_get_max_threads(); });
}

}  // namespace mn

PYBIND11_MODULE(_C, m) {
  mn::register_errors();
  mn::bind_runtime(m);
  mn::bind_probe(m);
  mn::bind_gemm(m);  // first: others take its PackedLayout
  mn::bind_experts(m);
  mn::bind_norm_rope(m);
  mn::bind_attention(m);
  mn::bind_attention_backward(m);
  mn::bind_attention_cache(m);
  mn::bind_routing(m);
  mn::bind_sampling(m);
  mn::bind_speculative(m);
  mn::bind_model(m);
  mn::bind_speculative_round(m);
  mn::bind_loss(m);
}
