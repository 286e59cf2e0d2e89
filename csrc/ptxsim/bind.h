// Conversions that the bindings of the interpreter share.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <string>
#include <vector>

#include "ptxsim/launch.h"

namespace ptxsim {

using Triple = std::array<u32, 3>;
inline Triple triple(const Dim3& d) { return {d.x, d.y, d.z}; }

Schedule schedule_of(const std::string& name);
pybind11::list report_list(const std::vector<Report>& reports);
// One row per instruction: opcode, PTX line, source file and line, and the counts.
pybind11::list instruction_rows(const Program& program, const Metrics& metrics);

void bind_gpu(pybind11::module_& m);  // cudart/bind.cpp

}  // namespace ptxsim
