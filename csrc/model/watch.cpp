#include "model/watch.h"

#include "runtime/tensor_caster.h"

namespace mn {

namespace py = pybind11;

namespace {

// A pass reads so many weights that these objects have left the caches: one after the other they
// would cost a hundred waits for memory of a step. How many are asked for at once.
constexpr size_t kAhead = 16;

void prefetch(const void* p) { __builtin_prefetch(p); }

// A dict's object and then, once that is there, where its keys and values are.
void prefetch_contents(PyObject* dict) {
  const PyDictObject* d = reinterpret_cast<PyDictObject*>(dict);
  const char* keys = reinterpret_cast<const char*>(d->ma_keys);
  prefetch(keys);
  prefetch(keys + 64);
  if (d->ma_values != nullptr) prefetch(d->ma_values);
}

}  // namespace

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
  const size_t entries = entries_.size(), empty = empty_.size(), places = places_.size();
  for (size_t i = 0; i < entries; ++i) {
    if (i + 2 * kAhead < entries) prefetch(entries_[i + 2 * kAhead].dict);
    if (i + kAhead < entries) prefetch_contents(entries_[i + kAhead].dict);
    if (PyDict_GetItem(entries_[i].dict, entries_[i].key) != entries_[i].value) return false;
  }
  for (size_t i = 0; i < empty; ++i) {
    if (i + kAhead < empty) prefetch(empty_[i + kAhead]);
    if (PyDict_Size(empty_[i]) != 0) return false;
  }
  for (size_t i = 0; i < places; ++i) {
    if (i + kAhead < places) prefetch(places_[i + kAhead].tensor);
    if (tensor_from_python(places_[i].tensor).data != places_[i].data) return false;
  }
  return true;
}

}  // namespace mn
