#include "runtime/new_tensor.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "runtime/dlpack.h"
#include "runtime/pages.h"

namespace mn {
namespace {

constexpr size_t kCacheLine = 64;
constexpr size_t kLarge = size_t{1} << 20;  // from here on memory is kept for reuse

struct Code {
  uint8_t kind, bits;
};

Code code_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return {2, 32};
    case DType::f64:
      return {2, 64};
    case DType::f16:
      return {2, 16};
    case DType::bf16:
      return {4, 16};
    case DType::i64:
      return {0, 64};
    case DType::i32:
      return {0, 32};
    case DType::i16:
      return {0, 16};
    case DType::i8:
      return {0, 8};
    case DType::u8:
      return {1, 8};
    case DType::boolean:
      return {6, 8};
    default:
      return {10, 8};
  }
}

struct Block {
  DLManagedTensor managed;
  std::array<int64_t, Tensor::kMaxDims> shape, stride;
  char* pages;  // of a large tensor's elements
  size_t page_bytes;
};

// Header and elements in one allocation. Plain malloc: its cache of small blocks does not serve
// aligned_alloc. The elements of a large tensor have pages of their own.
DLManagedTensor* allocate_on_cpu(size_t bytes, Block** block) {
  const bool large = bytes >= kLarge;
  auto* memory = static_cast<char*>(std::malloc(sizeof(Block) + (large ? 0 : kCacheLine + bytes)));
  if (!memory) throw std::bad_alloc();
  *block = new (memory) Block{};
  DLManagedTensor& managed = (*block)->managed;
  if (large) {
    try {
      managed.view.data = (*block)->pages = take_pages(bytes);
    } catch (...) {
      std::free(memory);
      throw;
    }
    (*block)->page_bytes = bytes;
  } else {
    const auto first_free = reinterpret_cast<uintptr_t>(memory + sizeof(Block));
    managed.view.data =
        memory + sizeof(Block) + (kCacheLine - first_free % kCacheLine) % kCacheLine;
  }
  managed.version_major = 1;
  managed.context = memory;
  managed.deleter = [](DLManagedTensor* self) {
    const auto* made = static_cast<Block*>(self->context);
    if (made->pages) give_back_pages(made->pages, made->page_bytes);
    std::free(self->context);
  };
  return &managed;
}

// Torch's own allocator serves its other devices.
DLManagedTensor* allocate_by(const DLExchangeTable* table, DLView like) {
  struct Failure {
    std::string message;
  } failure;
  DLManagedTensor* managed = nullptr;
  const auto set_error = [](void* context, const char*, const char* message) {
    static_cast<Failure*>(context)->message = message;
  };
  if (table->allocate(&like, &managed, &failure, set_error))
    throw std::runtime_error("no memory for an output: " + failure.message);
  return managed;
}

NewTensorObserver told = nullptr;

}  // namespace

void observe_new_tensors(NewTensorObserver observer) { told = observer; }

NewTensor new_tensor(const Tensor& like, DType dtype, std::span<const int64_t> shape) {
  const auto* table = static_cast<const DLExchangeTable*>(like.library);
  const Code code = code_of(dtype);
  NewTensor made;
  Tensor& t = made.view;
  t.dtype = dtype;
  t.on_cpu = like.on_cpu;
  t.device_index = like.device_index;
  t.library = like.library;
  t.ndim = static_cast<int>(shape.size());
  int64_t elements = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    t.shape[i] = shape[static_cast<size_t>(i)];
    t.stride[i] = elements;
    elements *= t.shape[i];
  }
  DLView view{.data = nullptr,
              .device_type = t.on_cpu ? kDLCpu : kDLCuda,
              .device_id = t.device_index,
              .ndim = t.ndim,
              .type_code = code.kind,
              .type_bits = code.bits,
              .type_lanes = 1,
              .shape = t.shape,
              .strides = t.stride,
              .byte_offset = 0};
  DLManagedTensor* managed;
  if (t.on_cpu) {
    const size_t bytes = static_cast<size_t>(elements * size_of(dtype));
    Block* block;
    managed = allocate_on_cpu(bytes, &block);
    view.data = managed->view.data;
    std::copy_n(t.shape, t.ndim, block->shape.begin());
    std::copy_n(t.stride, t.ndim, block->stride.begin());
    view.shape = block->shape.data();
    view.strides = block->stride.data();
    managed->view = view;
    if (told && bytes) told(view.data, bytes);
  } else {
    managed = allocate_by(table, view);
  }
  t.data = static_cast<char*>(managed->view.data) + managed->view.byte_offset;
  void* object = nullptr;
  if (table->object_from_managed(managed, &object)) throw pybind11::error_already_set();
  made.object = pybind11::reinterpret_steal<pybind11::object>(static_cast<PyObject*>(object));
  return made;
}

NewTensor new_tensor_of_rows(const Tensor& like, DType dtype, int64_t last) {
  std::array<int64_t, Tensor::kMaxDims> shape;
  std::copy_n(like.shape, like.ndim, shape.begin());
  shape[static_cast<size_t>(like.ndim - 1)] = last;
  return new_tensor(like, dtype, std::span(shape.data(), static_cast<size_t>(like.ndim)));
}

}  // namespace mn
