// Loops over the 32 lanes of registers. Included only by the sources that are compiled once per
// instruction-set level: everything here has internal linkage, so that the linker cannot keep one
// level's copy for all.
#pragma once

#include "ptxsim/machine.h"

#if defined(__AVX512DQ__) || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ptxsim {
namespace {

// d[i] = f(i) for the lanes of `mask`. f is called for all lanes, so it may not trap.
template <class T, class F>
inline void write_lanes(T* d, u32 mask, F f) {
  if (__builtin_expect(mask == kAllLanes, 1)) {
#pragma GCC ivdep
    for (int i = 0; i < kLanes; ++i) d[i] = f(i);
    return;
  }
  alignas(64) T result[kLanes];
#pragma GCC ivdep
  for (int i = 0; i < kLanes; ++i) result[i] = f(i);
#pragma GCC ivdep
  for (int i = 0; i < kLanes; ++i) d[i] = (mask >> i & 1) ? result[i] : d[i];
}

// The lanes for which f(i) holds, as bits.
template <class F>
inline u32 lane_bits(F f) {
  alignas(64) s32 flags[kLanes];
#pragma GCC ivdep
  for (int i = 0; i < kLanes; ++i) flags[i] = f(i) ? -1 : 0;
#if defined(__AVX512DQ__)
  return static_cast<u32>(_mm512_movepi32_mask(_mm512_load_si512(flags))) |
         static_cast<u32>(_mm512_movepi32_mask(_mm512_load_si512(flags + 16))) << 16;
#elif defined(__SSE2__)
  u32 bits = 0;
  for (int i = 0; i < kLanes; i += 4)
    bits |= static_cast<u32>(_mm_movemask_ps(_mm_load_ps(reinterpret_cast<float*>(flags + i))))
            << i;
  return bits;
#else
  u32 bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<u32>(flags[i] & 1) << i;
  return bits;
#endif
}

template <class D, class S, auto F>
void unary(Warp& w, const Instruction& in, u32 mask) {
  const S* a = reg<S>(w, in.reg[1]);
  write_lanes(reg<D>(w, in.reg[0]), mask, [=](int i) { return static_cast<D>(F(a[i])); });
}

template <class D, class A, class B, auto F>
void binary(Warp& w, const Instruction& in, u32 mask) {
  const A* a = reg<A>(w, in.reg[1]);
  const B* b = reg<B>(w, in.reg[2]);
  write_lanes(reg<D>(w, in.reg[0]), mask, [=](int i) { return static_cast<D>(F(a[i], b[i])); });
}

template <class D, class A, class B, class C, auto F>
void ternary(Warp& w, const Instruction& in, u32 mask) {
  const A* a = reg<A>(w, in.reg[1]);
  const B* b = reg<B>(w, in.reg[2]);
  const C* c = reg<C>(w, in.reg[3]);
  write_lanes(reg<D>(w, in.reg[0]), mask,
              [=](int i) { return static_cast<D>(F(a[i], b[i], c[i])); });
}

}  // namespace
}  // namespace ptxsim
