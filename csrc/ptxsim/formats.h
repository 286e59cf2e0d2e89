// Conversions between float32 and the narrower floating formats, branch-free where lanes matter.
// Internal linkage, as in lanes.h.
#pragma once

#include "ptxsim/types.h"

namespace ptxsim {
namespace {

inline u32 bits_of(float x) { return __builtin_bit_cast(u32, x); }
inline float float_of(u32 bits) { return __builtin_bit_cast(float, bits); }

inline float from_bf16(u16 x) { return float_of(u32{x} << 16); }

inline u16 to_bf16(float x) {
  const u32 b = bits_of(x);
  const u32 rounded = (b + 0x7fff + (b >> 16 & 1)) >> 16;
  return static_cast<u16>((b & 0x7fffffff) > 0x7f800000 ? 0x7fff : rounded);
}

inline u16 to_bf16_truncated(float x) {
  const u32 b = bits_of(x);
  return static_cast<u16>((b & 0x7fffffff) > 0x7f800000 ? 0x7fff : b >> 16);
}

inline float from_f16(u16 h) {
  const u32 sign = u32{h & 0x8000u} << 16, magnitude = h & 0x7fffu;
  // Exponent moved up by 112; the multiplication normalises subnormals.
  const float scaled = float_of(magnitude << 13) * float_of(0x77800000);  // 2^112
  const u32 special =
      magnitude >= 0x7c00 ? 0x7f800000u | (magnitude & 0x3ff) << 13 : bits_of(scaled);
  return float_of(sign | special);
}

// Round to nearest even.
inline u16 to_f16(float x) {
  const u32 b = bits_of(x), sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
  const u32 normal = (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13;
  // Below 2^-14: adding 0.5 leaves the rounded subnormal in the low bits.
  const u32 subnormal = bits_of(float_of(a) + 0.5f) - 0x3f000000;
  u32 r = a < 0x38800000 ? subnormal : normal;
  r = a >= 0x477ff000 ? 0x7c00 : r;
  r = a > 0x7f800000 ? 0x7fff : r;
  return static_cast<u16>(sign | r);
}

// float8 with `Mantissa` bits: e4m3 (no infinity, NaN = 0x7f) and e5m2. Saturates to the largest
// finite value, rounds to nearest even.
template <int Mantissa>
inline u8 to_f8(float x) {
  constexpr int kExponent = 7 - Mantissa, kBias = (1 << (kExponent - 1)) - 1;
  constexpr u32 kMax = Mantissa == 3 ? 0x7e : 0x7b;
  const u32 b = bits_of(x), sign = b >> 24 & 0x80, a = b & 0x7fffffff;
  if (a > 0x7f800000) return static_cast<u8>(Mantissa == 3 ? 0x7f : 0x7f);
  const int exponent = static_cast<int>(a >> 23) - 127;
  const int quantum = (exponent < 1 - kBias ? 1 - kBias : exponent) - Mantissa;  // log2 of a step
  if (exponent > kBias + 1) return static_cast<u8>(sign | kMax);
  const float steps =
      __builtin_nearbyintf(float_of(a) * float_of(static_cast<u32>(127 - quantum) << 23));
  // A value of n steps: the exponent field follows from n alone.
  const u32 n = static_cast<u32>(steps);
  const u32 base = exponent < 1 - kBias ? 0 : static_cast<u32>(exponent + kBias - 1) << Mantissa;
  const u32 r = base + n;
  return static_cast<u8>(sign | (r > kMax ? kMax : r));
}

template <int Mantissa>
inline float from_f8(u8 x) {
  constexpr int kExponent = 7 - Mantissa, kBias = (1 << (kExponent - 1)) - 1;
  const u32 sign = u32{x & 0x80u} << 24, a = x & 0x7f, e = a >> Mantissa;
  const u32 m = a & ((1 << Mantissa) - 1);
  if (Mantissa == 3 ? a == 0x7f : a > 0x7c) return float_of(sign | 0x7fc00000);
  if (Mantissa == 2 && a == 0x7c) return float_of(sign | 0x7f800000);
  const float unit = float_of(static_cast<u32>(127 + 1 - kBias - Mantissa) << 23);
  const float value = e == 0 ? static_cast<float>(m) * unit
                             : float_of((e + 127 - kBias) << 23 | m << (23 - Mantissa));
  return float_of(sign | bits_of(value));
}

// tf32 keeps 10 bits of the fraction, rounded to nearest, ties away from zero.
inline u32 to_tf32(float x) {
  const u32 b = bits_of(x);
  return (b & 0x7fffffff) >= 0x7f800000 ? b : (b + 0x1000) & ~0x1fffu;
}

}  // namespace
}  // namespace ptxsim
