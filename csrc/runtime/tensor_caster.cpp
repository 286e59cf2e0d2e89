#include "runtime/tensor_caster.h"

#include <array>

#include "runtime/dlpack.h"

namespace mn {
namespace {

struct CachedTable {
  PyTypeObject* type = nullptr;
  const DLExchangeTable* table = nullptr;
};

// Subclasses such as Parameter alternate with Tensor in one call, hence more than one entry.
// Guarded by the GIL. Types are kept alive on purpose: a table must not outlive its type.
const DLExchangeTable* table_of(PyTypeObject* type) {
  static std::array<CachedTable, 4> cache;
  static size_t next = 0;
  for (const CachedTable& entry : cache)
    if (entry.type == type) return entry.table;

  namespace py = pybind11;
  py::object capsule = py::reinterpret_steal<py::object>(
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__"));
  if (!capsule) {
    PyErr_Clear();
    throw py::type_error(std::string("expected a torch.Tensor, got ") + type->tp_name);
  }
  auto* table = static_cast<const DLExchangeTable*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!table) throw py::error_already_set();
  if (table->version_major != 1 || !table->view_from_object)
    throw py::type_error(
        "this torch offers another version of the DLPack exchange table; "
        "install torch >= 2.13");
  Py_INCREF(type);
  Py_XDECREF(reinterpret_cast<PyObject*>(cache[next].type));
  cache[next] = {type, table};
  next = (next + 1) % cache.size();
  return table;
}

DType dtype_of(const DLView& view) {
  if (view.type_lanes != 1) return DType::other;
  switch (view.type_code << 8 | view.type_bits) {
    case 2 << 8 | 32:
      return DType::f32;
    case 2 << 8 | 64:
      return DType::f64;
    case 2 << 8 | 16:
      return DType::f16;
    case 4 << 8 | 16:
      return DType::bf16;
    case 0 << 8 | 64:
      return DType::i64;
    case 0 << 8 | 32:
      return DType::i32;
    case 0 << 8 | 16:
      return DType::i16;
    case 0 << 8 | 8:
      return DType::i8;
    case 1 << 8 | 8:
      return DType::u8;
    case 6 << 8 | 8:
      return DType::boolean;
    case 10 << 8 | 8:
      return DType::e4m3;
    default:
      return DType::other;
  }
}

// torch explains why it has no view of a meta or sparse tensor with a stack trace; its first line
// says it.
pybind11::type_error unreadable() {
  const pybind11::error_already_set error;
  const std::string message = pybind11::str(error.value());
  return pybind11::type_error(
      "expected a dense tensor with data, not a sparse or meta tensor or one inside vmap, grad or "
      "jvp: " +
      message.substr(0, message.find('\n')) +
      " Plain torch serves those: mimo_native.backends.use(\"reference\").");
}

}  // namespace

Tensor tensor_from_python(PyObject* object) {
  const DLExchangeTable* table = table_of(Py_TYPE(object));
  DLView view;
  if (table->view_from_object(object, &view)) throw unreadable();
  if (view.ndim > Tensor::kMaxDims) throw pybind11::type_error("tensors of over 8 dimensions");
  Tensor tensor;
  tensor.data = static_cast<char*>(view.data) + view.byte_offset;
  tensor.dtype = dtype_of(view);
  tensor.on_cpu = view.device_type == kDLCpu;
  if (!tensor.on_cpu && view.device_type != kDLCuda)
    throw pybind11::type_error("tensors live on the CPU or on a CUDA device");
  tensor.device_index = view.device_id;
  tensor.library = table;
  tensor.ndim = view.ndim;
  int64_t expected = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    tensor.shape[i] = view.shape[i];
    tensor.stride[i] = view.strides ? view.strides[i] : expected;
    expected *= view.shape[i];
  }
  return tensor;
}

void* current_stream(const Tensor& tensor) {
  const auto* table = static_cast<const DLExchangeTable*>(tensor.library);
  if (tensor.on_cpu || !table->current_stream) return nullptr;
  void* stream = nullptr;
  if (table->current_stream(kDLCuda, tensor.device_index, &stream))
    throw pybind11::error_already_set();
  return stream;
}

}  // namespace mn
