#include "runtime/check.h"

namespace mn {

void Check::fail(const char* argument, const std::string& expected, const std::string& got,
                 const std::string& remedy) const {
  throw ShapeError(op_, argument, expected, got, remedy);
}

void Check::shape(const Tensor& t, const char* argument, std::initializer_list<int64_t> sizes,
                  const char* symbols) const {
  bool matches = t.ndim == static_cast<int>(sizes.size());
  int i = 0;
  for (int64_t size : sizes) {
    if (!matches) break;
    matches = size == kAny || t.shape[i] == size;
    ++i;
  }
  if (matches) return;
  std::string expected = std::string("shape ") + symbols + " = [";
  const char* separator = "";
  for (int64_t size : sizes) {
    expected += separator + (size == kAny ? std::string("any") : std::to_string(size));
    separator = ", ";
  }
  fail(argument, expected + "]", t.describe());
}

void Check::ndim_at_least(const Tensor& t, const char* argument, int ndim,
                          const char* symbols) const {
  if (t.ndim < ndim) fail(argument, std::string("shape ") + symbols, t.describe());
}

void Check::dtype(const Tensor& t, const char* argument,
                  std::initializer_list<DType> allowed) const {
  for (DType d : allowed)
    if (d == t.dtype) return;
  std::string expected = "dtype ";
  const char* separator = "";
  for (DType d : allowed) {
    expected += separator + std::string(name(d));
    separator = " or ";
  }
  fail(argument, expected, t.describe(),
       "Convert it with .to(dtype), or run the op under "
       "mimo_native.backends.use(\"reference\").");
}

void Check::same_dtype(const Tensor& t, const char* argument, const Tensor& other,
                       const char* other_argument) const {
  if (t.dtype != other.dtype)
    fail(argument, std::string("the dtype of ") + other_argument + ", " + name(other.dtype),
         t.describe(), "Convert one of them with .to(dtype).");
}

void Check::on_cpu(const Tensor& t, const char* argument) const {
  if (!t.on_cpu)
    fail(argument, "a tensor on the CPU", t.describe(),
         "All tensors of one call live on one device.");
}

void Check::on_device(const Tensor& t, const char* argument) const {
  if (t.on_cpu != (device_ == Device::cpu))
    fail(argument, device_ == Device::cpu ? "a tensor on the CPU" : "a tensor on a CUDA device",
         t.describe(), "All tensors of one call live on one device.");
}

void Check::same_device(const Tensor& t, const char* argument, const Tensor& other,
                        const char* other_argument) const {
  if (t.on_cpu != other.on_cpu || t.device_index != other.device_index)
    fail(argument, std::string("the device of ") + other_argument + ", " + other.describe(),
         t.describe(), "All tensors of one call live on one device.");
}

void Check::contiguous(const Tensor& t, const char* argument) const {
  if (!t.contiguous())
    fail(argument, "a contiguous tensor", t.describe() + " with strides", "Call .contiguous().");
}

void Check::last_dim_contiguous(const Tensor& t, const char* argument) const {
  if (t.ndim > 0 && t.last() > 1 && t.stride[t.ndim - 1] != 1)
    fail(argument, "a last dimension of stride 1",
         t.describe() + " with last stride " + std::to_string(t.stride[t.ndim - 1]),
         "Call .contiguous().");
}

void Check::range(int64_t value, const char* argument, int64_t low, int64_t high) const {
  if (value < low || value > high)
    fail(argument, "a value in [" + std::to_string(low) + ", " + std::to_string(high) + "]",
         std::to_string(value));
}

}  // namespace mn
