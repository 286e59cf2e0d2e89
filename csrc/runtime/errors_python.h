// Turns the C++ errors of check.h into the Python classes of mimo_native.errors.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "runtime/check.h"

namespace mn {

inline void set_python_error(const ShapeError& e) {
  namespace py = pybind11;
  const py::object type = py::module_::import("mimo_native.errors").attr("ShapeError");
  const py::object error = type(e.op, e.argument, py::arg("expected") = e.expected,
                                py::arg("got") = e.got, py::arg("remedy") = e.remedy);
  PyErr_SetObject(type.ptr(), error.ptr());
}

inline void set_python_error(const UnsupportedError& e) {
  namespace py = pybind11;
  const py::object type = py::module_::import("mimo_native.errors").attr("UnsupportedError");
  const py::object error = type(e.op, e.reasons, py::arg("remedy") = e.remedy);
  PyErr_SetObject(type.ptr(), error.ptr());
}

inline void register_errors() {
  pybind11::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ShapeError& e) {
      set_python_error(e);
    } catch (const UnsupportedError& e) {
      set_python_error(e);
    }
  });
}

}  // namespace mn
