// Elementary functions on f32x16, written once over the vector type.
#pragma once

namespace mn::MN_ISA {
namespace {

// e^r for |r| <= ln(2)/2: 1 + r + r^2 * P(r), relative error below 1e-7.
MN_INLINE f32x16 exp_reduced(f32x16 r) {
  f32x16 p = f32x16::set1(1.9875691500e-4f);
  p = fma(p, r, f32x16::set1(1.3981999507e-3f));
  p = fma(p, r, f32x16::set1(8.3334519073e-3f));
  p = fma(p, r, f32x16::set1(4.1665795894e-2f));
  p = fma(p, r, f32x16::set1(1.6666665459e-1f));
  p = fma(p, r, f32x16::set1(5.0000001201e-1f));
  return fma(p * r, r, r + f32x16::set1(1.f));
}

// Results below 2^-126 are exactly 0 (also for -inf), above 2^128 infinite; NaN stays NaN.
MN_INLINE f32x16 exp2(f32x16 x) {
  const f32x16 low = f32x16::set1(-126.f);
  const f32x16 clamped = min(f32x16::set1(128.f), max(low, x));
  // The exponent field ends at 127; the reduced argument takes the rest of x in (127.5, 128).
  const f32x16 n = min(f32x16::set1(127.f), round_to_integer(clamped));
  const f32x16 r = (clamped - n) * f32x16::set1(0.693147180559945f);
  const f32x16 y = scale_by_power(exp_reduced(r), n);
  return select(less_mask(x, low), f32x16::zero(),
                select(less_mask(f32x16::set1(127.999995f), x), f32x16::set1(__builtin_inff()), y));
}

MN_INLINE f32x16 exp(f32x16 x) {
  const f32x16 low = f32x16::set1(-87.33654f), high = f32x16::set1(88.72283f);
  const f32x16 clamped = min(high, max(low, x));
  const f32x16 n =
      min(f32x16::set1(127.f), round_to_integer(clamped * f32x16::set1(1.44269504088896341f)));
  // Two-part ln(2): n * 0.693359375 is exact for |n| < 2^15.
  f32x16 r = fma(n, f32x16::set1(-0.693359375f), clamped);
  r = fma(n, f32x16::set1(2.12194440e-4f), r);
  const f32x16 y = scale_by_power(exp_reduced(r), n);
  return select(less_mask(x, low), f32x16::zero(),
                select(less_mask(high, x), f32x16::set1(__builtin_inff()), y));
}

MN_INLINE f32x16 sigmoid(f32x16 x) {
  const f32x16 one = f32x16::set1(1.f);
  return one / (one + exp(f32x16::zero() - x));
}

MN_INLINE f32x16 silu(f32x16 x) { return x / (f32x16::set1(1.f) + exp(f32x16::zero() - x)); }

}  // namespace
}  // namespace mn::MN_ISA
