// The Python module `_ptxsim`; python/mimo_native/testing/ptxsim is its face.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ptxsim/bind.h"
#include "ptxsim/launch.h"
#include "ptxsim/operations.h"

namespace py = pybind11;

namespace ptxsim {
namespace {

Dim3 dims(const Triple& t) { return {t[0], t[1], t[2]}; }

py::dict report_dict(const Report& r) {
  py::dict d;
  d["kind"] = r.kind;
  d["message"] = r.message;
  d["kernel"] = r.kernel;
  d["block"] = triple(r.block);
  d["thread"] = r.thread;
  d["ptx_line"] = r.ptx_line;
  d["ptx"] = r.ptx;
  d["source"] = r.source;
  d["called_from"] = r.called_from;
  d["times"] = r.times;
  return d;
}

}  // namespace

Schedule schedule_of(const std::string& name) {
  if (name == "forward") return Schedule::forward;
  if (name == "reverse") return Schedule::reverse;
  if (name == "random") return Schedule::random;
  throw py::value_error("schedule: expected forward, reverse or random, got " + name);
}

py::list report_list(const std::vector<Report>& reports) {
  py::list list;
  for (const Report& r : reports) list.append(report_dict(r));
  return list;
}

py::list instruction_rows(const Program& program, const Metrics& metrics) {
  py::list rows;
  for (size_t i = 0; i < program.code.size(); ++i) {
    const Executions& e = metrics.executions[i];
    const Requests& m = metrics.requests[i];
    const Origin& o = program.origins[i];
    const auto file = program.module->files.find(o.source.file);
    rows.append(py::make_tuple(
        program.opcodes[i], o.line, file == program.module->files.end() ? "" : file->second,
        o.source.line, e.warps, e.lanes, m.requests, m.wavefronts, m.ideal, m.sectors, m.bytes));
  }
  return rows;
}

namespace {

const Program& program_of(const LoadedModule& module, const std::string& kernel) {
  const Program* program = module.find(kernel);
  if (!program) throw py::key_error("no kernel " + kernel);
  return *program;
}

py::tuple launch(const LoadedModule& module, const std::string& kernel, const Triple& grid,
                 const Triple& block, const Triple& cluster, u32 shared, const py::bytes& params,
                 GlobalMemory& memory, const std::string& schedule, u64 seed, bool races,
                 bool checks, bool metrics, int workers, u64 instruction_limit) {
  const Program& program = program_of(module, kernel);
  const std::string bytes = params;
  Launch launch(module, program, {dims(grid), dims(block), dims(cluster), shared},
                std::vector<u8>(bytes.begin(), bytes.end()), memory,
                {schedule_of(schedule), seed, races, checks, metrics, workers, instruction_limit});
  LaunchResult result;
  {
    const py::gil_scoped_release release;
    result = launch.run();
  }
  return py::make_tuple(report_list(result.reports), instruction_rows(program, result.metrics));
}

py::dict describe(const LoadedModule& module, const std::string& kernel) {
  const Program& p = program_of(module, kernel);
  py::list params, shared;
  for (const Param& q : p.params) params.append(py::make_tuple(q.offset, q.bytes, size_of(q.type)));
  for (const auto& v : p.shared) shared.append(py::make_tuple(v.name, v.offset, v.bytes));
  py::dict d;
  d["params"] = params;
  d["param_bytes"] = p.param_bytes;
  d["shared"] = shared;
  d["shared_bytes"] = p.shared_bytes;
  d["local_bytes"] = p.local_bytes;
  d["register_bytes"] = p.register_bytes;
  d["required_threads"] = triple(p.required_threads);
  d["max_threads"] = triple(p.max_threads);
  d["cluster"] = triple(p.cluster);
  d["instructions"] = p.code.size();
  return d;
}

}  // namespace
}  // namespace ptxsim

PYBIND11_MODULE(_ptxsim, m) {
  using namespace ptxsim;
  py::class_<GlobalMemory>(m, "Memory")
      .def(py::init<>())
      .def("add", &GlobalMemory::add, py::arg("begin"), py::arg("bytes"), py::arg("name"),
           py::arg("writable"), py::arg("initialised"))
      .def("remove", &GlobalMemory::remove, py::arg("begin"));
  py::class_<LoadedModule>(m, "Module")
      .def(py::init<const std::string&>(), py::arg("ptx"))
      .def_property_readonly("kernels", &LoadedModule::kernels)
      .def_property_readonly("unsupported", &LoadedModule::unsupported)
      .def_property_readonly("target", [](const LoadedModule& x) { return x.syntax().target; })
      .def("describe", &describe, py::arg("kernel"))
      .def("launch", &launch, py::arg("kernel"), py::arg("grid"), py::arg("block"),
           py::arg("cluster"), py::arg("shared"), py::arg("params"), py::arg("memory"),
           py::arg("schedule"), py::arg("seed"), py::arg("races"), py::arg("checks"),
           py::arg("metrics"), py::arg("workers"), py::arg("instruction_limit"));
  m.def(
      "level", [] { return lane_handlers().level; },
      "The instruction-set level of the lane handlers.");
#ifdef PTXSIM_CUDART
  bind_gpu(m);
#endif
}
