// A view of somebody else's tensor: what a binding receives and checks before it hands raw pointers
// to a plan.
#pragma once

#include <cstdint>
#include <string>

namespace mn {

enum class DType : uint8_t { f32, bf16, f64, f16, i64, i32, i16, i8, u8, boolean, e4m3, other };

const char* name(DType dtype);
int64_t size_of(DType dtype);

// Valid only while the Python object it came from is alive: never stored.
struct Tensor {
  static constexpr int kMaxDims = 8;

  void* data = nullptr;
  DType dtype = DType::other;
  bool on_cpu = true;
  int device_index = 0;
  int ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};  // in elements
  const void* library = nullptr;  // whose tensor it is: the key to its current CUDA stream

  int64_t numel() const;
  // Rows of the matrix that all leading dimensions form; the last dimension is the row.
  int64_t rows() const { return ndim == 0 ? 1 : (last() == 0 ? 0 : numel() / last()); }
  int64_t last() const { return ndim == 0 ? 1 : shape[ndim - 1]; }
  bool contiguous() const;
  std::string describe() const;  // "bfloat16[2, 16, 128] on cpu"

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace mn
