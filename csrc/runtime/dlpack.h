// The public DLPack 1.x C structures, as far as the package uses them.
#pragma once

#include <cstdint>

namespace mn {

inline constexpr int kDLCpu = 1, kDLCuda = 2;

struct DLView {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t ndim;
  uint8_t type_code;
  uint8_t type_bits;
  uint16_t type_lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct DLManagedTensor {
  uint32_t version_major;
  uint32_t version_minor;
  void* context;
  void (*deleter)(DLManagedTensor* self);
  uint64_t flags;
  DLView view;
};

// What torch puts on its tensor type. Functions return 0, or a negative number with a Python error
// set; those that touch Python objects need the GIL.
struct DLExchangeTable {
  uint32_t version_major;
  uint32_t version_minor;
  void* previous;
  int (*allocate)(DLView* like, DLManagedTensor** out, void* error_context,
                  void (*set_error)(void* error_context, const char* kind, const char* message));
  int (*managed_from_object)(void* object, DLManagedTensor** out);
  int (*object_from_managed)(DLManagedTensor* tensor, void** out);  // takes the tensor over
  int (*view_from_object)(void* object, DLView* out);
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

}  // namespace mn
