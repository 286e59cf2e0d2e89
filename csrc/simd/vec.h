// One 16-lane float vector at every ISA level, so that packed layouts, kernels and the order of
// every sum read the same whichever level a source is compiled for. A kernel source includes this
// header and nothing of the standard library that could leave a weak symbol behind.
//
//   f32x16        16 floats: zero set1 load load_n store store_n + - * / fma max min sqrt
//   reduce_add reduce_max select bf16x32       16 pairs of bf16, the operand of dot2: acc[lane] +=
//   a.lo * b[lane].lo, then a.hi * b[lane].hi bf16_pair     one pair broadcast to all lanes exp2
//   exp      results below 2^-126 are exactly 0, NaN stays NaN
//
// MN_ISA is the level's namespace, MN_LEVEL its number: 0 scalar, 1 avx2, 2 avx512, 3 avx512bf16.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef MN_ISA
#define MN_ISA scalar
#define MN_LEVEL 0
#endif

#define MN_INLINE inline __attribute__((always_inline))

namespace mn {
using bf16 = uint16_t;  // the bits of a bfloat16
}

namespace mn::MN_ISA {
namespace {

MN_INLINE float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// Round to nearest even; NaN stays NaN.
MN_INLINE bf16 to_bf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>(bits >> 16 | 0x40);
  return static_cast<bf16>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace
}  // namespace mn::MN_ISA

#if MN_LEVEL == 0
#include "simd/scalar.h"
#elif MN_LEVEL == 1
#include "simd/avx2.h"
#else
#include "simd/avx512.h"
#endif

#include "simd/math.h"
