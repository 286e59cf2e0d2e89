// bfloat16 weights and rows, float32 sums: acc += a.lo * b.lo, then a.hi * b.hi.
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

struct Bf16Format {
  using Value = bf16;
  using Operand = bf16x32;
  static constexpr int kDepth = 2;    // inputs of a step
  static constexpr int kVector = 32;  // values under 16 lanes
  // In units of f32x16 registers, for the choice of the register tile.
  static constexpr int kOperandRegisters = MN_LEVEL == 3 ? 1 : 2;
  static constexpr int kBroadcastRegisters = MN_LEVEL == 2 ? 2 : 1;

  static MN_INLINE Operand load(const Value* p) { return bf16x32::load(p); }
  static MN_INLINE bf16_pair broadcast(const Value* p) { return bf16_pair::load(p); }
  static MN_INLINE f32x16 accumulate(f32x16 acc, bf16_pair a, Operand b) { return dot2(acc, a, b); }
};

}  // namespace
}  // namespace mn::MN_ISA
