// mma.sync: D = A * B + C on fragments that are spread over the lanes of a warp.
//
// A 32-bit register holds E elements along k (2 of 16 bits, 4 of 8 bits, 1 of tf32). In lane
// 4 g + t of register r they are elements t E .. t E + E - 1 of row g in a group of 4 E along k.
// Registers of A alternate between rows 0-7 and 8-15; rows of B here are the columns n of the
// product. Accumulator r of lane 4 g + t is element (g + 8 (r / 2), 2 t + r % 2).
//
// So for each k the product is an outer one in the very layout of the accumulators: A's element of
// row g is spread over the four lanes of g, B's elements of columns 2 t + (0, 1) over all g. The
// products of the narrow formats are exact in float32, so the sums have the same bits with and
// without a fused multiply-add.
#include <cstring>
#include <type_traits>

#include "ptxsim/formats.h"
#include "ptxsim/lane_level.h"
#include "ptxsim/lanes.h"

namespace ptxsim::PTXSIM_LEVEL {
namespace {

constexpr int kM = 16, kN = 8, kHalf = kLanes / 2;

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float Type __attribute__((vector_size(64)));
};
template <>
struct VectorOf<s32> {
  typedef s32 Type __attribute__((vector_size(64)));
};
template <class T>
using Vector = typename VectorOf<T>::Type;

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

// A register widened: element e of every lane.
template <class Element, class T>
struct Widened {
  static constexpr int kElements = 4 / sizeof(typename Element::Stored);
  alignas(64) T value[kElements][kLanes];

  void load(Warp& w, s32 offset) {
    const auto* from = reg<typename Element::Stored>(w, offset);
    for (int e = 0; e < kElements; ++e)
      for (int lane = 0; lane < kLanes; ++lane)
        value[e][lane] = Element::widen(from[lane * kElements + e]);
  }
};

// Lanes 4 g .. 4 g + 3 get lane 4 g + T_ of `from`.
template <int T_, class T>
inline Vector<T> spread_rows(const T* from) {
#if defined(__AVX512F__)
  const __m512i x = _mm512_load_si512(from);
  return (Vector<T>)_mm512_shuffle_epi32(x, static_cast<_MM_PERM_ENUM>(T_ * 0x55));
#else
  alignas(64) T to[kHalf];
  for (int i = 0; i < kHalf; ++i) to[i] = from[(i & ~3) + T_];
  return *reinterpret_cast<const Vector<T>*>(to);
#endif
}

// Lane 4 g + t gets lane 4 (2 t + Parity) + T_.
template <int T_, int Parity, class T>
inline Vector<T> spread_columns(const T* from) {
#if defined(__AVX512F__)
  const __m512i index = _mm512_broadcast_i32x4(_mm_setr_epi32(
      4 * Parity + T_, 8 + 4 * Parity + T_, 16 + 4 * Parity + T_, 24 + 4 * Parity + T_));
  return (Vector<T>)_mm512_permutex2var_epi32(_mm512_load_si512(from), index,
                                              _mm512_load_si512(from + kHalf));
#else
  alignas(64) T to[kHalf];
  for (int i = 0; i < kHalf; ++i) to[i] = from[8 * (i & 3) + 4 * Parity + T_];
  return *reinterpret_cast<const Vector<T>*>(to);
#endif
}

template <class T>
inline void accumulate(Vector<T>& sum, Vector<T> a, Vector<T> b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    sum = (Vector<T>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
    return;
  }
#endif
  sum += a * b;
}

// sum[r][half]: accumulator r of lanes 16 half .. 16 half + 15
template <int T_, class T>
inline void outer_product(Vector<T> (&sum)[4][2], const T* upper, const T* lower, const T* b) {
  const Vector<T> even = spread_columns<T_, 0>(b), odd = spread_columns<T_, 1>(b);
  for (int half = 0; half < 2; ++half) {
    const Vector<T> first = spread_rows<T_>(upper + half * kHalf);
    const Vector<T> second = spread_rows<T_>(lower + half * kHalf);
    accumulate<T>(sum[0][half], first, even);
    accumulate<T>(sum[1][half], first, odd);
    accumulate<T>(sum[2][half], second, even);
    accumulate<T>(sum[3][half], second, odd);
  }
}

// Accumulators in registers: 32 bits each, or two of float16 in one. The sums are added to C.
template <class T>
struct Wide {
  static constexpr int kRegisters = 4;
  static void finish(Warp& w, const s32* d, const s32* c, Vector<T> (&sum)[4][2]) {
    for (int r = 0; r < 4; ++r)
      for (int half = 0; half < 2; ++half)
        sum[r][half] += reinterpret_cast<const Vector<T>*>(reg<T>(w, c[r]))[half];
    for (int r = 0; r < 4; ++r) std::memcpy(reg<T>(w, d[r]), sum[r], sizeof sum[r]);
  }
};
struct Packed {
  static constexpr int kRegisters = 2;
  static void finish(Warp& w, const s32* d, const s32* c, Vector<float> (&sum)[4][2]) {
    alignas(64) float total[4][kLanes];
    std::memcpy(total, sum, sizeof total);
    alignas(64) u16 result[2][kLanes][2];
    for (int r = 0; r < 2; ++r)
      for (int lane = 0; lane < kLanes; ++lane)
        for (int k = 0; k < 2; ++k)
          result[r][lane][k] =
              to_f16(total[2 * r + k][lane] + from_f16(reg<u16>(w, c[r])[2 * lane + k]));
    for (int r = 0; r < 2; ++r) std::memcpy(reg<u16>(w, d[r]), result[r], sizeof result[r]);
  }
};

template <class ElementA, class ElementB, class T, class Accumulator, int K>
void multiply(Warp& w, const Instruction& in, u32) {
  using A = Widened<ElementA, T>;
  using B = Widened<ElementB, T>;
  constexpr int kGroups = K / (4 * A::kElements);
  const s32* d = w.lists + in.list;
  const s32* a = d + Accumulator::kRegisters;
  const s32* b = a + 2 * kGroups;
  const s32* c = b + kGroups;
  A upper, lower;
  B columns;
  Vector<T> sum[4][2] = {};
  for (int group = 0; group < kGroups; ++group) {
    upper.load(w, a[2 * group]);
    lower.load(w, a[2 * group + 1]);
    columns.load(w, b[group]);
    for (int e = 0; e < A::kElements; ++e) {
      outer_product<0>(sum, upper.value[e], lower.value[e], columns.value[e]);
      outer_product<1>(sum, upper.value[e], lower.value[e], columns.value[e]);
      outer_product<2>(sum, upper.value[e], lower.value[e], columns.value[e]);
      outer_product<3>(sum, upper.value[e], lower.value[e], columns.value[e]);
    }
  }
  Accumulator::finish(w, d, c, sum);
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

void products(const float* a, const float* b, float* d, int k, int n) {
  using V = Vector<float>;
  constexpr int kRows = 8;
  for (int column = 0; column < n; column += kHalf)
    for (int row = 0; row < kM; row += kRows) {
      V sum[kRows] = {};
      for (int i = 0; i < k; ++i) {
        V right;
        std::memcpy(&right, b + i * kWideRow + column, sizeof right);
        for (int r = 0; r < kRows; ++r)
          accumulate<float>(sum[r], V{} + a[(row + r) * k + i], right);
      }
      for (int r = 0; r < kRows; ++r)
        std::memcpy(d + (row + r) * kWideRow + column, &sum[r], sizeof sum[r]);
    }
}

Handler matrix_handler(int m, int n, int k, Type a, Type b, Type accumulator) {
  if (m != kM || n != kN) return nullptr;
  if (a == Type::bf16 && k == 16) return half_inputs<ElementBF16, 16>(accumulator);
  if (a == Type::bf16 && k == 8) return half_inputs<ElementBF16, 8>(accumulator);
  if (a == Type::f16 && k == 16) return half_inputs<ElementF16, 16>(accumulator);
  if (a == Type::f16 && k == 8) return half_inputs<ElementF16, 8>(accumulator);
  if (a == Type::tf32 && k == 8) return half_inputs<ElementTF32, 8>(accumulator);
  if (a == Type::tf32 && k == 4) return half_inputs<ElementTF32, 4>(accumulator);
  if (a == Type::e4m3 && k == 32) return float8_inputs<ElementE4M3, 32>(b, accumulator);
  if (a == Type::e4m3 && k == 16) return float8_inputs<ElementE4M3, 16>(b, accumulator);
  if (a == Type::e5m2 && k == 32) return float8_inputs<ElementE5M2, 32>(b, accumulator);
  if (a == Type::e5m2 && k == 16) return float8_inputs<ElementE5M2, 16>(b, accumulator);
  if (a == Type::s8 && k == 32) return integer_inputs<ElementS8, 32>(b);
  if (a == Type::s8 && k == 16) return integer_inputs<ElementS8, 16>(b);
  if (a == Type::u8 && k == 32) return integer_inputs<ElementU8, 32>(b);
  if (a == Type::u8 && k == 16) return integer_inputs<ElementU8, 16>(b);
  return nullptr;
}

}  // namespace ptxsim::PTXSIM_LEVEL
