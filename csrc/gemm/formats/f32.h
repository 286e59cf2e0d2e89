// float32 weights, rows and sums.
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

struct F32Format {
  using Value = float;
  using Operand = f32x16;
  static constexpr int kDepth = 1;
  static constexpr int kVector = 16;
  static constexpr int kOperandRegisters = 1;
  static constexpr int kBroadcastRegisters = 1;

  static MN_INLINE Operand load(const Value* p) { return f32x16::load(p); }
  static MN_INLINE f32x16 broadcast(const Value* p) { return f32x16::set1(*p); }
  static MN_INLINE f32x16 accumulate(f32x16 acc, f32x16 a, Operand b) { return fma(a, b, acc); }
};

}  // namespace
}  // namespace mn::MN_ISA
