// One row of keys or values as 8-bit codes with a scale. With m the largest magnitude of the row:
//
//   int8   code = round(x * (127 / m))    scale = m / 127           value = code * scale
//   e4m3   code = e4m3(x * (448 / m))     scale = m / 448 * 256     value = (code / 256) * scale
//
// all in float32, rounded to nearest even; a row of zeros has scale 0, one with a NaN or an
// infinity a scale of NaN.
#pragma once

#include "simd/codes.h"

namespace mn::MN_ISA {
namespace {

struct RowScale {
  float stored;      // what codes are multiplied with
  float reciprocal;  // what elements are multiplied with before they are rounded
};

// The largest code's value, and what widen_pairs makes of it.
MN_INLINE float largest_value(int8_code) { return 127.f; }
MN_INLINE float largest_value(e4m3_code) { return 448.f; }
MN_INLINE float largest_widened(int8_code) { return 127.f; }
MN_INLINE float largest_widened(e4m3_code) { return 1.75f; }

template <class Code>
MN_INLINE RowScale row_scale(const bf16* x, int64_t count) {
  f32x16 most = f32x16::zero(), bad = f32x16::zero();
  const auto take = [&](f32x16 v) {
    most = max(max(v, f32x16::zero() - v), most);
    bad = fma(v, f32x16::zero(), bad);  // NaN once an element is not finite
  };
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) take(f32x16::load(x + i));
  if (i < count) take(f32x16::load_n(x + i, static_cast<int>(count - i)));
  const float m = reduce_max(most) + reduce_add(bad);
  if (m == 0.f) return {0.f, 0.f};
  return {m / largest_widened(Code{}), largest_value(Code{}) / m};
}

MN_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// The last bits of a sum whose unit in the last place is the step between codes are the code.
MN_INLINE int8_code to_code(float x, int8_code) {
  return {static_cast<uint8_t>(bits_of(x + 12582912.f))};
}
MN_INLINE e4m3_code to_code(float x, e4m3_code) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude + 0x7ffffu + (magnitude >> 20 & 1) - (120u << 23)) >> 20;
  const uint32_t subnormal = bits_of(__builtin_fabsf(x) + 16384.f);
  const uint32_t code = magnitude < 0x3c800000u ? subnormal : normal;  // 2^-6
  return {static_cast<uint8_t>((code & 0x7f) | (bits >> 24 & 0x80))};
}

// 16 elements of a row, of which `count` exist; the rest become 0.
template <class Code>
MN_INLINE void quantise16(const bf16* x, int count, const RowScale& scale, Code* codes) {
  float scaled[16];
  (f32x16::load_n(x, count) * f32x16::set1(scale.reciprocal)).store(scaled);
  for (int i = 0; i < 16; ++i) codes[i] = to_code(scaled[i], Code{});
}

}  // namespace
}  // namespace mn::MN_ISA
