// What tests ask of the simulated GPU.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ptxsim/bind.h"
#include "ptxsim/cudart/gpu.h"

namespace py = pybind11;

namespace ptxsim {
namespace {

// (kernel, grid, block, reports, instruction rows) of each launch since the last call.
py::list take_launches() {
  py::list rows;
  for (const GpuLaunch& launch : Gpu::instance().take_launches())
    rows.append(py::make_tuple(
        launch.kernel, triple(launch.grid), triple(launch.block),
        report_list(launch.result.reports),
        launch.program ? instruction_rows(*launch.program, launch.result.metrics) : py::list()));
  return rows;
}

void configure(int major, int minor, u32 multiprocessors, const std::string& schedule, u64 seed,
               bool races, bool checks, bool metrics, int workers, u64 instruction_limit) {
  Gpu::instance().configure(
      {major,
       minor,
       multiprocessors,
       {schedule_of(schedule), seed, races, checks, metrics, workers, instruction_limit}});
}

}  // namespace

void bind_gpu(py::module_& m) {
  m.def("gpu_configure", &configure, py::arg("major"), py::arg("minor"), py::arg("multiprocessors"),
        py::arg("schedule"), py::arg("seed"), py::arg("races"), py::arg("checks"),
        py::arg("metrics"), py::arg("workers"), py::arg("instruction_limit"));
  m.def(
      "gpu_add_memory",
      [](u64 begin, u64 bytes, const std::string& name, bool writable) {
        return Gpu::instance().add_memory(begin, bytes, name, writable);
      },
      py::arg("begin"), py::arg("bytes"), py::arg("name"), py::arg("writable"));
  m.def(
      "gpu_remove_memory", [](u64 begin) { Gpu::instance().remove_memory(begin); },
      py::arg("begin"));
  m.def("gpu_forget_outputs", [] { Gpu::instance().forget_outputs(); });
  m.def("gpu_take_launches", &take_launches);
  m.def(
      "gpu_images", [] { return Gpu::instance().images(); },
      "PTX of every registered object that the device would run: (number, text).");
  m.def(
      "gpu_substitute",
      [](size_t binary, const std::string& text) { Gpu::instance().substitute(binary, text); },
      py::arg("binary"), py::arg("text"), "Run other PTX for an object; '': its own again.");
}

}  // namespace ptxsim
