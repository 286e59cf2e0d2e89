// What the 128 bytes of a CUtensorMap mean here: made by the simulated driver, read by the tensor
// copies and changed by tensormap.replace.
#pragma once

#include "ptxsim/types.h"

namespace ptxsim {

struct TensorMap {
  static constexpr u32 kMagic = 0x70616d74;
  static constexpr int kDims = 5;

  u32 magic;
  u8 rank;
  u8 element;   // bytes
  u8 swizzle;   // 0: none; 1, 2, 3: spans of 32, 64, 128 bytes
  u8 fill_nan;  // elements outside read as NaN, not zero
  u64 base;
  u32 size[kDims];
  u32 box[kDims];
  u64 stride[kDims - 1];  // bytes
  u8 step[kDims];
  u8 kind;  // CUtensorMapDataType
  u8 unused[34];

  u32 box_bytes() const {
    u32 bytes = element;
    for (int i = 0; i < rank; ++i) bytes *= box[i];
    return bytes;
  }
};
static_assert(sizeof(TensorMap) == 128);

}  // namespace ptxsim
