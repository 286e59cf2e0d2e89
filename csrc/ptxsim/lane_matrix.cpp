// mma.sync: D = A * B + C on fragments that are spread over the lanes of a warp.
//
// A 32-bit register holds E elements along k (2 of 16 bits, 4 of 8 bits, 1 of tf32). Lane 4 g + t
// of register r holds row g, elements t E .. t E + E - 1 of a group of k; read as memory, a
// register is therefore a row-major matrix [8][4 E]. Registers of A alternate between rows 0-7 and
// 8-15.
#include <type_traits>

#include "ptxsim/formats.h"
#include "ptxsim/lane_level.h"
#include "ptxsim/lanes.h"

namespace ptxsim::PTXSIM_LEVEL {
namespace {

constexpr int kM = 16, kN = 8;

struct ElementBF16 {
  using Stored = u16;
  static float widen(u16 x) { return from_bf16(x); }
};
struct ElementF16 {
  using Stored = u16;
  static float widen(u16 x) { return from_f16(x); }
};
struct ElementTF32 {
  using Stored = u32;
  static float widen(u32 x) { return float_of(x & ~0x1fffu); }  // the unit ignores the low bits
};
struct ElementE4M3 {
  using Stored = u8;
  static float widen(u8 x) { return from_f8<3>(x); }
};
struct ElementE5M2 {
  using Stored = u8;
  static float widen(u8 x) { return from_f8<2>(x); }
};
struct ElementS8 {
  using Stored = s8;
  static s32 widen(s8 x) { return x; }
};
struct ElementU8 {
  using Stored = u8;
  static s32 widen(u8 x) { return x; }
};

// Rows of a fragment register, widened: to[row * stride + element].
template <class Element, class T>
inline void unpack(Warp& w, s32 offset, T* to, int stride) {
  constexpr int kPerRow = 16 / sizeof(typename Element::Stored);
  const auto* from = reg<typename Element::Stored>(w, offset);
  for (int row = 0; row < 8; ++row)
    for (int e = 0; e < kPerRow; ++e)
      to[row * stride + e] = Element::widen(from[row * kPerRow + e]);
}

// Accumulators in registers: 32 bits each, or two of float16 in one.
template <class T>
struct Wide {
  static void load(Warp& w, const s32* list, T (*c)[kN]) {
    for (int r = 0; r < 4; ++r) {
      const T* from = reg<T>(w, list[r]);
      for (int lane = 0; lane < kLanes; ++lane)
        c[(r >> 1) * 8 + lane / 4][lane % 4 * 2 + (r & 1)] = from[lane];
    }
  }
  static void store(Warp& w, const s32* list, const T (*d)[kN]) {
    for (int r = 0; r < 4; ++r) {
      T* to = reg<T>(w, list[r]);
      for (int lane = 0; lane < kLanes; ++lane)
        to[lane] = d[(r >> 1) * 8 + lane / 4][lane % 4 * 2 + (r & 1)];
    }
  }
  static constexpr int kRegisters = 4;
};
struct Packed {
  static void load(Warp& w, const s32* list, float (*c)[kN]) {
    for (int r = 0; r < 2; ++r) unpack<ElementF16>(w, list[r], c[r * 8], kN);
  }
  static void store(Warp& w, const s32* list, const float (*d)[kN]) {
    for (int r = 0; r < 2; ++r) {
      u16* to = reg<u16>(w, list[r]);
      for (int i = 0; i < 8 * kN; ++i) to[i] = to_f16(d[r * 8 + i / kN][i % kN]);
    }
  }
  static constexpr int kRegisters = 2;
};

template <class ElementA, class ElementB, class T, class Accumulator, int K>
void multiply(Warp& w, const Instruction& in, u32) {
  constexpr int kGroup = 16 / sizeof(typename ElementA::Stored);
  constexpr int kGroups = K / kGroup;
  const s32* d = w.lists + in.list;
  const s32* a = d + Accumulator::kRegisters;
  const s32* b = a + 2 * kGroups;
  const s32* c = b + kGroups;
  alignas(64) T A[kM][K], Bt[kN][K], B[K][kN], C[kM][kN];
  for (int r = 0; r < 2 * kGroups; ++r)
    unpack<ElementA>(w, a[r], &A[(r & 1) * 8][(r >> 1) * kGroup], K);
  for (int r = 0; r < kGroups; ++r) unpack<ElementB>(w, b[r], &Bt[0][r * kGroup], K);
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < kN; ++n) B[k][n] = Bt[n][k];
  Accumulator::load(w, c, C);
  // Four rows at a time hide the latency of the additions. Sums first, then C, as float32.
  for (int m = 0; m < kM; m += 4) {
    T sum[4][kN] = {};
    for (int k = 0; k < K; ++k)
      for (int i = 0; i < 4; ++i)
        for (int n = 0; n < kN; ++n) sum[i][n] += A[m + i][k] * B[k][n];
    for (int i = 0; i < 4; ++i)
      for (int n = 0; n < kN; ++n) C[m + i][n] += sum[i][n];
  }
  Accumulator::store(w, d, C);
}

template <class E, int K>
Handler half_inputs(Type accumulator) {
  if (accumulator == Type::f32) return multiply<E, E, float, Wide<float>, K>;
  return accumulator == Type::f16 ? multiply<E, E, float, Packed, K> : nullptr;
}

template <class A, int K>
Handler float8_inputs(Type b, Type accumulator) {
  if (accumulator != Type::f32) return nullptr;
  return b == Type::e4m3 ? multiply<A, ElementE4M3, float, Wide<float>, K>
                         : multiply<A, ElementE5M2, float, Wide<float>, K>;
}

template <class A, int K>
Handler integer_inputs(Type b) {
  return b == Type::s8 ? multiply<A, ElementS8, s32, Wide<s32>, K>
                       : multiply<A, ElementU8, s32, Wide<s32>, K>;
}

}  // namespace

Handler matrix_handler(int m, int n, int k, Type a, Type b, Type accumulator) {
  if (m != kM || n != kN) return nullptr;
  if (a == Type::bf16 && k == 16) return half_inputs<ElementBF16, 16>(accumulator);
  if (a == Type::bf16 && k == 8) return half_inputs<ElementBF16, 8>(accumulator);
  if (a == Type::f16 && k == 16) return half_inputs<ElementF16, 16>(accumulator);
  if (a == Type::f16 && k == 8) return half_inputs<ElementF16, 8>(accumulator);
  if (a == Type::tf32 && k == 8) return half_inputs<ElementTF32, 8>(accumulator);
  if (a == Type::tf32 && k == 4) return half_inputs<ElementTF32, 4>(accumulator);
  if (a == Type::e4m3 && k == 32) return float8_inputs<ElementE4M3, 32>(b, accumulator);
  if (a == Type::e5m2 && k == 32) return float8_inputs<ElementE5M2, 32>(b, accumulator);
  if (a == Type::s8 && k == 32) return integer_inputs<ElementS8, 32>(b);
  if (a == Type::s8 && k == 16) return integer_inputs<ElementS8, 16>(b);
  if (a == Type::u8 && k == 32) return integer_inputs<ElementU8, 32>(b);
  if (a == Type::u8 && k == 16) return integer_inputs<ElementU8, 16>(b);
  return nullptr;
}

}  // namespace ptxsim::PTXSIM_LEVEL
