// Floating-point arithmetic on all lanes. Half formats compute in a wider one and round once.
#include <type_traits>

#include "ptxsim/formats.h"
#include "ptxsim/lane_level.h"
#include "ptxsim/lanes.h"

namespace ptxsim::PTXSIM_LEVEL {
namespace {

// Builtins, not <cmath>: its inline overloads could be emitted as weak symbols.
inline bool negative(float x) { return __builtin_signbit(x); }
inline bool negative(double x) { return __builtin_signbit(x); }
inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }
inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }
inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float with_sign(float sign, float x) { return __builtin_copysignf(x, sign); }
inline double with_sign(double sign, double x) { return __builtin_copysign(x, sign); }

// -0 is below +0; a NaN loses.
template <class T>
inline T lesser(T a, T b) {
  if (b != b) return a;
  if (a == b) return negative(a) ? a : b;
  return a < b || a != a ? (a != a ? b : a) : b;
}
template <class T>
inline T greater(T a, T b) {
  if (b != b) return a;
  if (a == b) return negative(a) ? b : a;
  return a > b || a != a ? (a != a ? b : a) : b;
}

// 2^x to about one unit in the last place, without a call, so that lanes run together.
inline float exp2_lane(float x) {
  const float clamped = x < -151.f ? -151.f : x > 129.f ? 129.f : x;
  const float whole = __builtin_floorf(clamped + 0.5f);
  const float t = clamped - whole;
  float p = 1.5353362e-4f;
  p = p * t + 1.3398874e-3f;
  p = p * t + 9.6184373e-3f;
  p = p * t + 5.5503324e-2f;
  p = p * t + 2.4022648e-1f;
  p = p * t + 6.9314720e-1f;
  p = p * t + 1.f;
  // Two factors, since 2^whole alone may be out of range.
  const s32 n = static_cast<s32>(whole), half = n >> 1;
  const float result = p * float_of(static_cast<u32>(half + 127) << 23) *
                       float_of(static_cast<u32>(n - half + 127) << 23);
  return x != x ? x : result;
}

inline float flush(float x) {
  return (bits_of(x) & 0x7f800000) == 0 ? float_of(bits_of(x) & 0x80000000) : x;
}
inline double flush(double x) { return x; }

template <class T>
inline T saturate(T x) {  // NaN becomes 0
  return x > 0 ? (x < 1 ? x : T{1}) : T{0};
}

// Wraps an operation: flush subnormals in and out, clamp the result.
template <class T, auto F, bool Flush, bool Saturate>
struct Op1 {
  static T run(T a) {
    T r = F(Flush ? flush(a) : a);
    r = Flush ? flush(r) : r;
    return Saturate ? saturate(r) : r;
  }
};
template <class T, auto F, bool Flush, bool Saturate>
struct Op2 {
  static T run(T a, T b) {
    T r = F(Flush ? flush(a) : a, Flush ? flush(b) : b);
    r = Flush ? flush(r) : r;
    return Saturate ? saturate(r) : r;
  }
};
template <class T, auto F, bool Flush, bool Saturate>
struct Op3 {
  static T run(T a, T b, T c) {
    T r = F(Flush ? flush(a) : a, Flush ? flush(b) : b, Flush ? flush(c) : c);
    r = Flush ? flush(r) : r;
    return Saturate ? saturate(r) : r;
  }
};

// How a format is stored and in what it computes.
struct F32 {
  using Stored = float;
  using Wide = float;
  static float widen(float x) { return x; }
  static float narrow(float x) { return x; }
};
struct F64 {
  using Stored = double;
  using Wide = double;
  static double widen(double x) { return x; }
  static double narrow(double x) { return x; }
};
struct F16 {
  using Stored = u16;
  using Wide = float;
  static float widen(u16 x) { return from_f16(x); }
  static u16 narrow(float x) { return to_f16(x); }
};
struct BF16 {
  using Stored = u16;
  using Wide = float;
  static float widen(u16 x) { return from_bf16(x); }
  static u16 narrow(float x) { return to_bf16(x); }
};
template <class Half>
struct Pair {  // two of a half format in 32 bits
  using Stored = u32;
  using Wide = float;
};

template <class Format, auto F, class... S>
inline auto apply(S... s) {
  if constexpr (std::is_same_v<Format, Pair<F16>> || std::is_same_v<Format, Pair<BF16>>) {
    using Half = std::conditional_t<std::is_same_v<Format, Pair<F16>>, F16, BF16>;
    const u32 low = Half::narrow(F(Half::widen(static_cast<u16>(s))...));
    const u32 high = Half::narrow(F(Half::widen(static_cast<u16>(s >> 16))...));
    return low | high << 16;
  } else {
    return Format::narrow(F(Format::widen(s)...));
  }
}

// Handlers of one format from functions on its wide type.
template <class Format, bool Flush, bool Saturate>
struct Make {
  using S = typename Format::Stored;
  using T = typename Format::Wide;
  template <auto F>
  static Handler one() {
    return unary<S, S, [](S a) { return apply<Format, Op1<T, F, Flush, Saturate>::run>(a); }>;
  }
  template <auto F>
  static Handler two() {
    return binary<S, S, S,
                  [](S a, S b) { return apply<Format, Op2<T, F, Flush, Saturate>::run>(a, b); }>;
  }
  template <auto F>
  static Handler three() {
    return ternary<S, S, S, S, [](S a, S b, S c) {
      return apply<Format, Op3<T, F, Flush, Saturate>::run>(a, b, c);
    }>;
  }
};

template <class Format, bool Flush, bool Saturate>
Handler arithmetic(Op op) {
  using M = Make<Format, Flush, Saturate>;
  using T = typename Format::Wide;
  switch (op) {
    case Op::neg: return M::template one<[](T a) { return -a; }>();
    case Op::abs: return M::template one<[](T a) { return magnitude(a); }>();
    case Op::sqrt: return M::template one<[](T a) { return root(a); }>();
    case Op::rsqrt: return M::template one<[](T a) { return T{1} / root(a); }>();
    case Op::rcp: return M::template one<[](T a) { return T{1} / a; }>();
    case Op::add: return M::template two<[](T a, T b) { return a + b; }>();
    case Op::sub: return M::template two<[](T a, T b) { return a - b; }>();
    case Op::mul: return M::template two<[](T a, T b) { return a * b; }>();
    case Op::div: return M::template two<[](T a, T b) { return a / b; }>();
    case Op::min: return M::template two<lesser<T>>();
    case Op::max: return M::template two<greater<T>>();
    case Op::min_nan:
      return M::template two<[](T a, T b) { return a != a ? a : b != b ? b : lesser(a, b); }>();
    case Op::max_nan:
      return M::template two<[](T a, T b) { return a != a ? a : b != b ? b : greater(a, b); }>();
    case Op::copysign: return M::template two<[](T a, T b) { return with_sign(a, b); }>();
    case Op::fma:
    case Op::mad: return M::template three<[](T a, T b, T c) { return fused(a, b, c); }>();
    case Op::fma_relu:
      return M::template three<[](T a, T b, T c) {
        const T r = fused(a, b, c);
        return r <= 0 ? T{0} : r;
      }>();
    default: break;
  }
  if constexpr (sizeof(T) == 4) {  // the approximations of the special function unit
    switch (op) {
      case Op::sin: return M::template one<[](T a) { return __builtin_sinf(a); }>();
      case Op::cos: return M::template one<[](T a) { return __builtin_cosf(a); }>();
      case Op::lg2: return M::template one<[](T a) { return __builtin_log2f(a); }>();
      case Op::tanh: return M::template one<[](T a) { return __builtin_tanhf(a); }>();
      case Op::ex2: return M::template one<exp2_lane>();
      default: break;
    }
  }
  return nullptr;
}

template <class Format>
Handler with_modifiers(Op op, bool flush, bool saturate) {
  if (flush)
    return saturate ? arithmetic<Format, true, true>(op) : arithmetic<Format, true, false>(op);
  return saturate ? arithmetic<Format, false, true>(op) : arithmetic<Format, false, false>(op);
}

}  // namespace

Handler float_handler(Op op, Type type, bool flush, bool saturate) {
  switch (type) {
    case Type::f32: return with_modifiers<F32>(op, flush, saturate);
    case Type::f64: return arithmetic<F64, false, false>(op);
    case Type::f16: return arithmetic<F16, false, false>(op);
    case Type::bf16: return arithmetic<BF16, false, false>(op);
    case Type::f16x2: return arithmetic<Pair<F16>, false, false>(op);
    case Type::bf16x2: return arithmetic<Pair<BF16>, false, false>(op);
    default: return nullptr;
  }
}

}  // namespace ptxsim::PTXSIM_LEVEL
