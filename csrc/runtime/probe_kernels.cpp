#include "runtime/probe.h"
#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

// Enough to hide the latency of two multiply-adds a cycle, and no more than the registers hold
// beside the operands.
constexpr int kChains = kVectorRegisters >= 16 ? 12 : kVectorRegisters >= 8 ? 5 : 2;
constexpr int kStreams = 8;

float total(const f32x16* acc, int n) {
  f32x16 sum = acc[0];
  for (int i = 1; i < n; ++i) sum = sum + acc[i];
  return reduce_add(sum);
}

float multiply_add_f32(int64_t rounds) {
  const f32x16 a = f32x16::set1(1.0001f), b = f32x16::set1(0.9999f);
  f32x16 acc[kChains];
  for (f32x16& x : acc) x = f32x16::zero();
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (f32x16& x : acc) x = fma(a, b, x);
  }
  return total(acc, kChains);
}

float multiply_add_bf16(int64_t rounds) {
  alignas(64) bf16 ones[32];
  for (bf16& x : ones) x = to_bf16(1.f);
  const bf16_pair a = bf16_pair::load(ones);
  const bf16x32 b = bf16x32::load(ones);
  f32x16 acc[kChains];
  for (f32x16& x : acc) x = f32x16::zero();
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (f32x16& x : acc) x = dot2(x, a, b);
  }
  return total(acc, kChains);
}

#if MN_LEVEL == 3
constexpr int kInt8Products = 4;

float multiply_add_int8(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
  __m512i acc[kChains];
  for (__m512i& x : acc) x = _mm512_setzero_si512();
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (__m512i& x : acc) x = _mm512_dpbusd_epi32(x, a, b);
  }
  __m512i sum = acc[0];
  for (int i = 1; i < kChains; ++i) sum = _mm512_add_epi32(sum, acc[i]);
  return static_cast<float>(_mm512_reduce_add_epi32(sum));
}
#else
constexpr int kInt8Products = 1;
constexpr auto multiply_add_int8 = multiply_add_f32;
#endif

// Several streams, because one alone is limited by the prefetcher's reach within a page.
float read(const float* data, int64_t count) {
  const int64_t stride = count / kStreams;
  f32x16 acc[kStreams];
  for (f32x16& x : acc) x = f32x16::zero();
  for (int64_t i = 0; i < stride; i += 64) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) {
      const float* p = data + s * stride + i;
      prefetch(p + 512);
      acc[s] = max(acc[s], max(max(f32x16::load(p), f32x16::load(p + 16)),
                               max(f32x16::load(p + 32), f32x16::load(p + 48))));
    }
  }
  return total(acc, kStreams);
}

}  // namespace

extern const ProbeKernels probe_kernels = {kChains,       multiply_add_f32,  multiply_add_bf16,
                                           kInt8Products, multiply_add_int8, read};

}  // namespace mn::MN_ISA
