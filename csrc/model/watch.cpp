#include "model/watch.h"

#include "runtime/tensor_caster.h"

namespace mn {

namespace py = pybind11;

Watch::Watch(py::list entries, py::list empty, py::list tensors) : owned_{entries, empty, tensors} {
  for (const py::handle item : entries) {
    const py::tuple entry = py::cast<py::tuple>(item);
    const bool absent = entry[2].is(entry[0]);
    entries_.push_back({py::object(entry[0]).ptr(), py::object(entry[1]).ptr(),
                        absent ? nullptr : py::object(entry[2]).ptr()});
  }
  for (const py::handle item : empty) empty_.push_back(item.ptr());
  for (const py::handle item : tensors)
    places_.push_back({item.ptr(), tensor_from_python(item.ptr()).data});
}

bool Watch::unchanged() const {
  for (const Entry& e : entries_)
    if (PyDict_GetItem(e.dict, e.key) != e.value) return false;
  for (PyObject* dict : empty_)
    if (PyDict_Size(dict) != 0) return false;
  for (const Place& p : places_)
    if (tensor_from_python(p.tensor).data != p.data) return false;
  return true;
}

}  // namespace mn
