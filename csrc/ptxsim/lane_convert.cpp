// cvt on all lanes.
#include <type_traits>

#include "ptxsim/formats.h"
#include "ptxsim/lane_level.h"
#include "ptxsim/lanes.h"

namespace ptxsim::PTXSIM_LEVEL {
namespace {

inline float rounded(float x, Rounding how) {
  switch (how) {
    case Rounding::int_zero: return __builtin_truncf(x);
    case Rounding::int_down: return __builtin_floorf(x);
    case Rounding::int_up: return __builtin_ceilf(x);
    default: return __builtin_nearbyintf(x);
  }
}
inline double rounded(double x, Rounding how) {
  switch (how) {
    case Rounding::int_zero: return __builtin_trunc(x);
    case Rounding::int_down: return __builtin_floor(x);
    case Rounding::int_up: return __builtin_ceil(x);
    default: return __builtin_nearbyint(x);
  }
}

// Floating to integer always saturates; NaN becomes 0.
template <class D, class F>
inline D to_integer(F x) {
  constexpr int kBits = sizeof(D) * 8 - (std::is_signed_v<D> ? 1 : 0);
  const F limit = static_cast<F>(u64{1} << (kBits - 1)) * F{2};  // the first value too large
  const D top = static_cast<D>(~u64{0} >> (64 - kBits));
  const D bottom = std::is_signed_v<D> ? static_cast<D>(~top) : D{0};
  if (x != x) return 0;
  if (x >= limit) return top;
  if (x <= (std::is_signed_v<D> ? -limit : F{0})) return bottom;
  return static_cast<D>(x);
}

// An 8-bit result lives in a 16-bit register.
template <class D>
using Register =
    std::conditional_t<sizeof(D) == 1, std::conditional_t<std::is_signed_v<D>, s16, u16>, D>;

template <class F>
__attribute__((noinline)) void round_lanes(const F* a, Rounding how, F* out) {
  const auto all = [&](auto f) {
    for (int i = 0; i < kLanes; ++i) out[i] = f(a[i]);
  };
  switch (how) {
    case Rounding::int_zero: return all([](F x) { return rounded(x, Rounding::int_zero); });
    case Rounding::int_down: return all([](F x) { return rounded(x, Rounding::int_down); });
    case Rounding::int_up: return all([](F x) { return rounded(x, Rounding::int_up); });
    default: return all([](F x) { return rounded(x, Rounding::int_nearest); });
  }
}

template <class D, class F>
void float_to_integer(Warp& w, const Instruction& in, u32 mask) {
  alignas(64) F whole[kLanes];
  round_lanes(reg<F>(w, in.reg[1]), static_cast<Rounding>(in.variant), whole);
  write_lanes(reg<Register<D>>(w, in.reg[0]), mask,
              [&](int i) -> Register<D> { return to_integer<D>(whole[i]); });
}

// A source is read at its own width.
template <class D, class S>
Handler integer_to_integer() {
  using Source = std::conditional_t<sizeof(S) == 1, u16, S>;
  return unary<Register<D>, Source,
               [](Source a) -> Register<D> { return static_cast<D>(static_cast<S>(a)); }>;
}

template <class D>
Handler to_integer_from(const Conversion& how) {
  switch (how.from) {
    case Type::u8:
    case Type::b8: return integer_to_integer<D, u8>();
    case Type::s8: return integer_to_integer<D, s8>();
    case Type::u16:
    case Type::b16: return integer_to_integer<D, u16>();
    case Type::s16: return integer_to_integer<D, s16>();
    case Type::u32:
    case Type::b32: return integer_to_integer<D, u32>();
    case Type::s32: return integer_to_integer<D, s32>();
    case Type::u64:
    case Type::b64: return integer_to_integer<D, u64>();
    case Type::s64: return integer_to_integer<D, s64>();
    case Type::f32: return float_to_integer<D, float>;
    case Type::f64: return float_to_integer<D, double>;
    case Type::f16:
    case Type::bf16:
      return how.from == Type::f16
                 ? unary<D, u16, [](u16 a) { return to_integer<D>(__builtin_truncf(from_f16(a))); }>
                 : unary<D, u16,
                         [](u16 a) { return to_integer<D>(__builtin_truncf(from_bf16(a))); }>;
    default: return nullptr;
  }
}

template <class F>
Handler to_float_from(Type from) {
  switch (from) {
    case Type::u8: return unary<F, u16, [](u16 a) { return static_cast<F>(static_cast<u8>(a)); }>;
    case Type::s8: return unary<F, u16, [](u16 a) { return static_cast<F>(static_cast<s8>(a)); }>;
    case Type::u16: return unary<F, u16, [](u16 a) { return static_cast<F>(a); }>;
    case Type::s16: return unary<F, s16, [](s16 a) { return static_cast<F>(a); }>;
    case Type::u32: return unary<F, u32, [](u32 a) { return static_cast<F>(a); }>;
    case Type::s32: return unary<F, s32, [](s32 a) { return static_cast<F>(a); }>;
    case Type::u64: return unary<F, u64, [](u64 a) { return static_cast<F>(a); }>;
    case Type::s64: return unary<F, s64, [](s64 a) { return static_cast<F>(a); }>;
    case Type::f16: return unary<F, u16, [](u16 a) { return static_cast<F>(from_f16(a)); }>;
    case Type::bf16: return unary<F, u16, [](u16 a) { return static_cast<F>(from_bf16(a)); }>;
    case Type::f32: return unary<F, float, [](float a) { return static_cast<F>(a); }>;
    case Type::f64: return unary<F, double, [](double a) { return static_cast<F>(a); }>;
    default: return nullptr;
  }
}

inline float clamp_unit(float x) { return x > 0 ? (x < 1 ? x : 1.f) : 0.f; }
inline float relu(float x) { return x > 0 || x != x ? x : 0.f; }

template <auto Narrow>
Handler to_half_from(Type from) {
  switch (from) {
    case Type::f32: return unary<u16, float, [](float a) { return Narrow(a); }>;
    case Type::f64:
      return unary<u16, double, [](double a) { return Narrow(static_cast<float>(a)); }>;
    case Type::f16: return unary<u16, u16, [](u16 a) { return Narrow(from_f16(a)); }>;
    case Type::bf16: return unary<u16, u16, [](u16 a) { return Narrow(from_bf16(a)); }>;
    case Type::u8: return unary<u16, u16, [](u16 a) { return Narrow(static_cast<u8>(a)); }>;
    case Type::s8: return unary<u16, u16, [](u16 a) { return Narrow(static_cast<s8>(a)); }>;
    case Type::u16: return unary<u16, u16, [](u16 a) { return Narrow(a); }>;
    case Type::s16: return unary<u16, s16, [](s16 a) { return Narrow(a); }>;
    case Type::u32: return unary<u16, u32, [](u32 a) { return Narrow(static_cast<float>(a)); }>;
    case Type::s32: return unary<u16, s32, [](s32 a) { return Narrow(static_cast<float>(a)); }>;
    case Type::u64: return unary<u16, u64, [](u64 a) { return Narrow(static_cast<float>(a)); }>;
    case Type::s64: return unary<u16, s64, [](s64 a) { return Narrow(static_cast<float>(a)); }>;
    default: return nullptr;
  }
}

// d = {high: narrow(a), low: narrow(b)}
template <class D, int Bits, auto Narrow>
Handler pack(bool with_relu) {
  if (with_relu)
    return binary<D, float, float, [](float a, float b) {
      return static_cast<D>(static_cast<u32>(Narrow(relu(a))) << Bits | Narrow(relu(b)));
    }>;
  return binary<D, float, float, [](float a, float b) {
    return static_cast<D>(static_cast<u32>(Narrow(a)) << Bits | Narrow(b));
  }>;
}

template <int Mantissa>
Handler from_f8_pair(bool to_bf) {
  if (to_bf)
    return unary<u32, u16, [](u16 a) {
      return u32{to_bf16(from_f8<Mantissa>(static_cast<u8>(a)))} |
             u32{to_bf16(from_f8<Mantissa>(static_cast<u8>(a >> 8)))} << 16;
    }>;
  return unary<u32, u16, [](u16 a) {
    return u32{to_f16(from_f8<Mantissa>(static_cast<u8>(a)))} |
           u32{to_f16(from_f8<Mantissa>(static_cast<u8>(a >> 8)))} << 16;
  }>;
}

template <int Mantissa>
Handler to_f8_pair(const Conversion& how) {
  if (how.from == Type::f32) return pack<u16, 8, to_f8<Mantissa>>(how.relu);
  if (how.from == Type::f16x2)
    return unary<u16, u32, [](u32 a) {
      return static_cast<u16>(to_f8<Mantissa>(from_f16(static_cast<u16>(a))) |
                              to_f8<Mantissa>(from_f16(static_cast<u16>(a >> 16))) << 8);
    }>;
  if (how.from == Type::bf16x2)
    return unary<u16, u32, [](u32 a) {
      return static_cast<u16>(to_f8<Mantissa>(from_bf16(static_cast<u16>(a))) |
                              to_f8<Mantissa>(from_bf16(static_cast<u16>(a >> 16))) << 8);
    }>;
  return nullptr;
}

template <class F, Rounding how>
Handler round_to_whole() {
  return unary<F, F, [](F a) { return rounded(a, how); }>;
}

template <class F>
Handler float_to_float(const Conversion& how) {
  if (how.saturate)
    return unary<F, F, [](F a) { return static_cast<F>(clamp_unit(static_cast<float>(a))); }>;
  switch (how.rounding) {
    case Rounding::int_nearest: return round_to_whole<F, Rounding::int_nearest>();
    case Rounding::int_zero: return round_to_whole<F, Rounding::int_zero>();
    case Rounding::int_down: return round_to_whole<F, Rounding::int_down>();
    case Rounding::int_up: return round_to_whole<F, Rounding::int_up>();
    default: return unary<F, F, [](F a) { return a; }>;
  }
}

inline s64 as_integer(Warp& w, s32 offset, Type type, int lane) {
  switch (type) {
    case Type::u8: return static_cast<u8>(reg<u16>(w, offset)[lane]);
    case Type::s8: return static_cast<s8>(reg<u16>(w, offset)[lane]);
    case Type::u16: return reg<u16>(w, offset)[lane];
    case Type::s16: return reg<s16>(w, offset)[lane];
    case Type::u32: return reg<u32>(w, offset)[lane];
    case Type::s32: return reg<s32>(w, offset)[lane];
    default: return reg<s64>(w, offset)[lane];
  }
}

// cvt.sat between integers: rare, so one loop for all types (imm: to, imm2: from).
void saturating(Warp& w, const Instruction& in, u32 mask) {
  const auto to = static_cast<Type>(in.imm), from = static_cast<Type>(in.imm2);
  const int bits = size_of(to) * 8;
  for (int i = 0; i < kLanes; ++i) {
    if (!(mask >> i & 1)) continue;
    const s64 raw = as_integer(w, in.reg[1], from, i);
    __int128 value = from == Type::u64 ? static_cast<__int128>(static_cast<u64>(raw)) : raw;
    const __int128 one = 1;
    const __int128 low = is_signed(to) ? -(one << (bits - 1)) : 0;
    const __int128 high = (one << (is_signed(to) ? bits - 1 : bits)) - 1;
    value = value < low ? low : value > high ? high : value;
    if (bits <= 16) reg<u16>(w, in.reg[0])[i] = static_cast<u16>(value);
    if (bits == 32) reg<u32>(w, in.reg[0])[i] = static_cast<u32>(value);
    if (bits == 64) reg<u64>(w, in.reg[0])[i] = static_cast<u64>(value);
  }
}

bool is_integer(Type type) { return type >= Type::u8 && type <= Type::s64; }

inline u16 relu_bf16(float x) { return to_bf16(relu(x)); }
inline u16 relu_f16(float x) { return to_f16(relu(x)); }

}  // namespace

Handler convert_handler(const Conversion& how) {
  if (how.saturate && is_integer(how.to) && is_integer(how.from)) return saturating;
  const bool truncates = how.rounding == Rounding::zero;
  switch (how.to) {
    case Type::u8: return to_integer_from<u8>(how);
    case Type::s8: return to_integer_from<s8>(how);
    case Type::u16: return to_integer_from<u16>(how);
    case Type::s16: return to_integer_from<s16>(how);
    case Type::u32: return to_integer_from<u32>(how);
    case Type::s32: return to_integer_from<s32>(how);
    case Type::u64: return to_integer_from<u64>(how);
    case Type::s64: return to_integer_from<s64>(how);
    case Type::f32:
      return how.from == Type::f32 ? float_to_float<float>(how) : to_float_from<float>(how.from);
    case Type::f64:
      return how.from == Type::f64 ? float_to_float<double>(how) : to_float_from<double>(how.from);
    case Type::f16:
      return how.relu ? to_half_from<relu_f16>(how.from) : to_half_from<to_f16>(how.from);
    case Type::bf16:
      if (truncates) return to_half_from<to_bf16_truncated>(how.from);
      return how.relu ? to_half_from<relu_bf16>(how.from) : to_half_from<to_bf16>(how.from);
    case Type::tf32: return unary<u32, float, to_tf32>;
    case Type::f16x2:
      if (how.from == Type::e4m3x2) return from_f8_pair<3>(false);
      if (how.from == Type::e5m2x2) return from_f8_pair<2>(false);
      return how.from == Type::f32 ? pack<u32, 16, to_f16>(how.relu) : nullptr;
    case Type::bf16x2:
      if (how.from != Type::f32) return nullptr;
      return truncates ? pack<u32, 16, to_bf16_truncated>(how.relu)
                       : pack<u32, 16, to_bf16>(how.relu);
    case Type::e4m3x2: return to_f8_pair<3>(how);
    case Type::e5m2x2: return to_f8_pair<2>(how);
    default: return nullptr;
  }
}

}  // namespace ptxsim::PTXSIM_LEVEL
