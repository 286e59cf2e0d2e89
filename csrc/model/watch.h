// Whether Python objects that a native decoder was made of are still what they were.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

namespace mn {

// Entries of dicts that must stay, dicts that must stay empty, tensors that must stay in place. One
// call instead of a walk over a model's modules, which would take longer than some of its layers.
class Watch {
 public:
  // entries: (dict, key, value); where `value` is the dict itself the key must be absent.
  Watch(pybind11::list entries, pybind11::list empty, pybind11::list tensors);

  bool unchanged() const;

 private:
  struct Entry {
    PyObject *dict, *key, *value;  // value null: the key must be absent
  };
  struct Place {
    PyObject* tensor;
    const void* data;
  };
  pybind11::list owned_[3];
  std::vector<Entry> entries_;
  std::vector<PyObject*> empty_;
  std::vector<Place> places_;
};

}  // namespace mn
