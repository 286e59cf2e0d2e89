// The portable level: compiler vectors of 64 bytes, lowered to whatever the target's base
// instruction set has.
#pragma once

namespace mn::MN_ISA {
namespace {

typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));

constexpr int kVectorRegisters = 4;  // how many f32x16 fit into the register file

struct f32x16 {
  v16f v;

  static MN_INLINE f32x16 zero() { return {v16f{}}; }
  static MN_INLINE f32x16 set1(float x) { return {v16f{} + x}; }
  static MN_INLINE f32x16 load(const float* p) {
    f32x16 r;
    std::memcpy(&r.v, p, 64);
    return r;
  }
  static MN_INLINE f32x16 load_n(const float* p, int n) {
    f32x16 r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  static MN_INLINE f32x16 load(const bf16* p) {
    uint16_t half[16];
    std::memcpy(half, p, 32);
    v16u bits;
    for (int i = 0; i < 16; ++i) bits[i] = static_cast<uint32_t>(half[i]) << 16;
    return {reinterpret_cast<v16f>(bits)};
  }
  static MN_INLINE f32x16 load_n(const bf16* p, int n) {
    f32x16 r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = to_float(p[i]);
    return r;
  }
  MN_INLINE void store(float* p) const { std::memcpy(p, &v, 64); }
  MN_INLINE void store_n(float* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  MN_INLINE void store(bf16* p) const {
    for (int i = 0; i < 16; ++i) p[i] = to_bf16(v[i]);
  }
  MN_INLINE void store_n(bf16* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = to_bf16(v[i]);
  }

  friend MN_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {a.v + b.v}; }
  friend MN_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {a.v - b.v}; }
  friend MN_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {a.v * b.v}; }
  friend MN_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {a.v / b.v}; }
};

MN_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {a.v * b.v + c.v}; }
// As x86's max and min: the second operand when either is NaN.
MN_INLINE f32x16 max(f32x16 a, f32x16 b) { return {a.v > b.v ? a.v : b.v}; }
MN_INLINE f32x16 min(f32x16 a, f32x16 b) { return {a.v < b.v ? a.v : b.v}; }
MN_INLINE f32x16 sqrt(f32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
// Lane i of `a` where bit i of `mask` is set, else of `b`.
MN_INLINE f32x16 select(uint32_t mask, f32x16 a, f32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] = mask >> i & 1 ? a.v[i] : b.v[i];
  return a;
}
MN_INLINE uint32_t less_mask(f32x16 a, f32x16 b) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(a.v[i] < b.v[i]) << i;
  return mask;
}
MN_INLINE uint32_t equal_mask(f32x16 a, f32x16 b) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(a.v[i] == b.v[i]) << i;
  return mask;
}
// Pairwise halving: lanes 8 apart, then 4, 2, 1. The same tree at every level.
MN_INLINE float reduce_add(f32x16 a) {
  float t[16];
  a.store(t);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) t[i] += t[i + half];
  return t[0];
}
MN_INLINE float reduce_max(f32x16 a) {
  float t[16];
  a.store(t);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
  return t[0];
}

// r * 2^n for integral n in [-126, 127].
MN_INLINE f32x16 scale_by_power(f32x16 r, f32x16 n) {
  const v16i e = (__builtin_convertvector(n.v, v16i) + 127) << 23;
  return {r.v * reinterpret_cast<v16f>(e)};
}
// Nearest integer of |x| < 2^22, ties to even: adding 1.5 * 2^23 leaves no fraction bits.
MN_INLINE f32x16 round_to_integer(f32x16 x) {
  const f32x16 magic = f32x16::set1(12582912.f);
  return (x + magic) - magic;
}

struct bf16_pair {
  float lo, hi;
  static MN_INLINE bf16_pair load(const bf16* p) { return {to_float(p[0]), to_float(p[1])}; }
};

struct bf16x32 {
  v16f lo, hi;
  static MN_INLINE bf16x32 load(const bf16* p) {
    v16u bits;
    std::memcpy(&bits, p, 64);
    return {reinterpret_cast<v16f>(bits << 16), reinterpret_cast<v16f>(bits & 0xffff0000u)};
  }
};

MN_INLINE f32x16 dot2(f32x16 acc, bf16_pair a, bf16x32 b) {
  return {(acc.v + b.lo * a.lo) + b.hi * a.hi};
}

MN_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace
}  // namespace mn::MN_ISA
