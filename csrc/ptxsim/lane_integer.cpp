// Integer arithmetic and bit operations on all lanes.
#include <type_traits>

#include "ptxsim/lane_level.h"
#include "ptxsim/lanes.h"

namespace ptxsim::PTXSIM_LEVEL {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

template <class T>
constexpr int kBits = sizeof(T) * 8;

template <class T>
inline T high_product(T a, T b) {
  if constexpr (sizeof(T) == 8) {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b) >> 64);
  } else {
    using Wide = std::conditional_t<std::is_signed_v<T>, s64, u64>;
    return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b) >> kBits<T>);
  }
}

// Division by zero gives all ones; the one overflow wraps.
template <class T>
inline T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(~T{0});
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(Unsigned<T>{0} - a);
  return static_cast<T>(a / b);
}
template <class T>
inline T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <class T>
inline u32 leading_zeros(T a) {
  if constexpr (sizeof(T) == 8)
    return a ? static_cast<u32>(__builtin_clzll(static_cast<u64>(a))) : 64;
  else
    return a ? static_cast<u32>(__builtin_clz(static_cast<u32>(a))) : 32;
}

// The most significant bit that differs from the sign.
template <class T>
inline u32 find_bit(T a) {
  const Unsigned<T> bits = static_cast<Unsigned<T>>(std::is_signed_v<T> && a < 0 ? ~a : a);
  return bits ? kBits<T> - 1 - leading_zeros(bits) : ~0u;
}

template <class T>
inline T reverse(T a) {
  T r = 0;
  for (int i = 0; i < kBits<T>; ++i) r |= (a >> i & 1) << (kBits<T> - 1 - i);
  return r;
}

template <class T>
inline T extract(T a, u32 position, u32 length) {
  position &= 255;
  length &= 255;
  if (length == 0) return 0;
  const int top = static_cast<int>(position + length - 1);
  const bool sign = std::is_signed_v<T> && (a >> (top < kBits<T> ? top : kBits<T> - 1) & 1);
  const Unsigned<T> shifted =
      position < kBits<T> ? static_cast<Unsigned<T>>(a) >> position : Unsigned<T>{0};
  const int taken = position < kBits<T> ? kBits<T> - static_cast<int>(position) : 0;
  const int kept = static_cast<int>(length) < taken ? static_cast<int>(length) : taken;
  const Unsigned<T> mask =
      kept >= kBits<T> ? ~Unsigned<T>{0} : static_cast<Unsigned<T>>((Unsigned<T>{1} << kept) - 1);
  return static_cast<T>((shifted & mask) | (sign ? ~mask : Unsigned<T>{0}));
}

template <class T>
void insert(Warp& w, const Instruction& in, u32 mask) {  // d, a, b, position, length
  const T *a = reg<T>(w, in.reg[1]), *b = reg<T>(w, in.reg[2]);
  const u32 *position = reg<u32>(w, in.reg[3]), *length = reg<u32>(w, in.reg[4]);
  write_lanes(reg<T>(w, in.reg[0]), mask, [=](int i) -> T {
    const u32 p = position[i] & 255, n = length[i] & 255;
    if (p >= kBits<T>) return b[i];
    const T ones = n >= kBits<T> ? ~T{0} : static_cast<T>((T{1} << n) - 1);
    const T field = static_cast<T>(ones << p);
    return static_cast<T>((b[i] & ~field) | ((a[i] << p) & field));
  });
}

inline u32 permute(u32 a, u32 b, u32 selector) {
  const u64 bytes = a | u64{b} << 32;
  u32 r = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 s = selector >> (4 * i);
    u32 byte = static_cast<u32>(bytes >> (8 * (s & 7))) & 255;
    if (s & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << (8 * i);
  }
  return r;
}

void lop3(Warp& w, const Instruction& in, u32 mask) {
  const u32 *a = reg<u32>(w, in.reg[1]), *b = reg<u32>(w, in.reg[2]), *c = reg<u32>(w, in.reg[3]);
  const u32 table = static_cast<u32>(in.imm);
  write_lanes(reg<u32>(w, in.reg[0]), mask, [=](int i) {
    u32 r = 0;
    for (int k = 0; k < 8; ++k)
      r |= (table >> k & 1 ? ~0u : 0u) & (k & 4 ? a[i] : ~a[i]) & (k & 2 ? b[i] : ~b[i]) &
           (k & 1 ? c[i] : ~c[i]);
    return r;
  });
}

// imm: the shift amount wraps at 32 instead of being clamped.
template <bool Left>
void funnel(Warp& w, const Instruction& in, u32 mask) {
  const u32 *a = reg<u32>(w, in.reg[1]), *b = reg<u32>(w, in.reg[2]), *c = reg<u32>(w, in.reg[3]);
  const bool wrap = in.imm != 0;
  write_lanes(reg<u32>(w, in.reg[0]), mask, [=](int i) {
    const u32 n = wrap ? c[i] & 31 : c[i] < 32 ? c[i] : 32;
    const u64 both = a[i] | u64{b[i]} << 32;
    return static_cast<u32>(Left ? (both << n) >> 32 : both >> n);
  });
}

template <bool Signed>
inline u32 dot4(u32 a, u32 b, u32 c) {
  for (int i = 0; i < 4; ++i) {
    const u32 x = a >> (8 * i), y = b >> (8 * i);
    c += Signed ? static_cast<u32>(static_cast<s8>(x) * static_cast<s8>(y)) : (x & 255) * (y & 255);
  }
  return c;
}

// add.cc and its kin. Sum of up to three terms in twice the width; the rest is the carry.
template <class T, Op op>
void with_carry(Warp& w, const Instruction& in, u32 mask) {
  using Wide = std::conditional_t<sizeof(T) == 8, unsigned __int128, u64>;
  constexpr bool subtracts = op == Op::sub_cc || op == Op::subc || op == Op::subc_cc;
  constexpr bool multiplies = op >= Op::mad_lo_cc;
  constexpr bool high = op == Op::mad_hi_cc || op == Op::madc_hi || op == Op::madc_hi_cc;
  constexpr bool reads = op == Op::addc || op == Op::addc_cc || op == Op::subc ||
                         op == Op::subc_cc || op == Op::madc_lo || op == Op::madc_lo_cc ||
                         op == Op::madc_hi || op == Op::madc_hi_cc;
  constexpr bool writes =
      op != Op::addc && op != Op::subc && op != Op::madc_lo && op != Op::madc_hi;
  const T *a = reg<T>(w, in.reg[1]), *b = reg<T>(w, in.reg[2]);
  const T* c = multiplies ? reg<T>(w, in.reg[3]) : b;
  T* d = reg<T>(w, in.reg[0]);
  for (int i = 0; i < kLanes; ++i) {
    if (!(mask >> i & 1)) continue;
    const Wide carry = reads ? w.carry[i] : 0;
    Wide sum;
    if constexpr (multiplies) {
      const Wide product = static_cast<Wide>(a[i]) * b[i];
      sum = static_cast<Wide>(static_cast<T>(high ? product >> kBits<T> : product)) + c[i] + carry;
    } else if constexpr (subtracts) {
      sum = static_cast<Wide>(a[i]) - b[i] - carry;
    } else {
      sum = static_cast<Wide>(a[i]) + b[i] + carry;
    }
    d[i] = static_cast<T>(sum);
    if (writes) w.carry[i] = static_cast<u32>(sum >> kBits<T>) & 1;
  }
}

template <class T>
Handler carry_handler(Op op) {
  switch (op) {
    case Op::add_cc: return with_carry<T, Op::add_cc>;
    case Op::addc: return with_carry<T, Op::addc>;
    case Op::addc_cc: return with_carry<T, Op::addc_cc>;
    case Op::sub_cc: return with_carry<T, Op::sub_cc>;
    case Op::subc: return with_carry<T, Op::subc>;
    case Op::subc_cc: return with_carry<T, Op::subc_cc>;
    case Op::mad_lo_cc: return with_carry<T, Op::mad_lo_cc>;
    case Op::madc_lo: return with_carry<T, Op::madc_lo>;
    case Op::madc_lo_cc: return with_carry<T, Op::madc_lo_cc>;
    case Op::mad_hi_cc: return with_carry<T, Op::mad_hi_cc>;
    case Op::madc_hi: return with_carry<T, Op::madc_hi>;
    case Op::madc_hi_cc: return with_carry<T, Op::madc_hi_cc>;
    default: return nullptr;
  }
}

template <class T>
Handler any_width(Op op) {
  using U = Unsigned<T>;
  switch (op) {
    case Op::mov: return unary<T, T, [](T a) { return a; }>;
    case Op::neg: return unary<T, T, [](T a) { return U{0} - static_cast<U>(a); }>;
    case Op::abs: return unary<T, T, [](T a) { return a < 0 ? U{0} - static_cast<U>(a) : a; }>;
    case Op::bit_not: return unary<T, T, [](T a) { return ~a; }>;
    case Op::logical_not: return unary<T, T, [](T a) { return a == 0; }>;
    case Op::add:
      return binary<T, T, T, [](T a, T b) { return static_cast<U>(a) + static_cast<U>(b); }>;
    case Op::sub:
      return binary<T, T, T, [](T a, T b) { return static_cast<U>(a) - static_cast<U>(b); }>;
    case Op::mul:
      return binary<T, T, T,
                    [](T a, T b) { return U(1u * static_cast<U>(a) * static_cast<U>(b)); }>;
    case Op::mul_hi: return binary<T, T, T, high_product<T>>;
    case Op::div: return binary<T, T, T, quotient<T>>;
    case Op::rem: return binary<T, T, T, remainder<T>>;
    case Op::min: return binary<T, T, T, [](T a, T b) { return a < b ? a : b; }>;
    case Op::max: return binary<T, T, T, [](T a, T b) { return b < a ? a : b; }>;
    case Op::bit_and: return binary<T, T, T, [](T a, T b) { return a & b; }>;
    case Op::bit_or: return binary<T, T, T, [](T a, T b) { return a | b; }>;
    case Op::bit_xor: return binary<T, T, T, [](T a, T b) { return a ^ b; }>;
    case Op::shl:
      return binary<T, T, u32,
                    [](T a, u32 n) { return n < kBits<T> ? U(static_cast<U>(a) << n) : U{0}; }>;
    case Op::shr:
      return binary<T, T, u32, [](T a, u32 n) {
        if constexpr (std::is_signed_v<T>)
          return T((a >> (n < kBits<T> ? n : kBits<T> - 1)));
        else
          return n < kBits<T> ? T((a >> n)) : T{0};
      }>;
    case Op::mad:
      return ternary<T, T, T, T, [](T a, T b, T c) {
        return U(1u * static_cast<U>(a) * static_cast<U>(b) + static_cast<U>(c));
      }>;
    case Op::mad_hi:
      return ternary<T, T, T, T, [](T a, T b, T c) {
        return static_cast<U>(high_product<T>(a, b)) + static_cast<U>(c);
      }>;
    case Op::sad:
      return ternary<T, T, T, T, [](T a, T b, T c) {
        return U(static_cast<U>(c) + (a < b ? static_cast<U>(b) - static_cast<U>(a)
                                            : static_cast<U>(a) - static_cast<U>(b)));
      }>;
    default: break;
  }
  if constexpr (sizeof(T) < 8) {  // products of twice the width
    using Wide =
        std::conditional_t<std::is_signed_v<T>, std::conditional_t<sizeof(T) == 2, s32, s64>,
                           std::conditional_t<sizeof(T) == 2, u32, u64>>;
    if (op == Op::mul_wide) return binary<Wide, T, T, [](T a, T b) { return Wide{a} * b; }>;
    if (op == Op::mad_wide)
      return ternary<Wide, T, T, Wide, [](T a, T b, Wide c) {
        return static_cast<Unsigned<Wide>>(Wide{a} * b) + static_cast<Unsigned<Wide>>(c);
      }>;
  }
  if constexpr (sizeof(T) >= 4) {
    switch (op) {
      case Op::popc:
        return unary<u32, T, [](T a) {
          return sizeof(T) == 8 ? __builtin_popcountll(static_cast<u64>(a))
                                : __builtin_popcount(static_cast<u32>(a));
        }>;
      case Op::clz: return unary<u32, T, leading_zeros<T>>;
      case Op::bfind: return unary<u32, T, find_bit<T>>;
      case Op::bfind_shift:
        return unary<u32, T, [](T a) {
          const u32 bit = find_bit<T>(a);
          return bit == ~0u ? bit : kBits<T> - 1 - bit;
        }>;
      case Op::brev: return unary<U, U, reverse<U>>;
      case Op::bfe: return ternary<T, T, u32, u32, extract<T>>;
      case Op::bfi: return insert<U>;
      default: return carry_handler<U>(op);
    }
  }
  return nullptr;
}

}  // namespace

Handler integer_handler(Op op, Type type) {
  switch (op) {  // 32-bit operations without a typed family
    case Op::prmt: return ternary<u32, u32, u32, u32, permute>;
    case Op::lop3: return lop3;
    case Op::funnel_left: return funnel<true>;
    case Op::funnel_right: return funnel<false>;
    case Op::dp4a:
      return type == Type::s32 ? ternary<u32, u32, u32, u32, dot4<true>>
                               : ternary<u32, u32, u32, u32, dot4<false>>;
    default: break;
  }
  switch (type) {
    case Type::b16:
    case Type::u16: return any_width<u16>(op);
    case Type::s16: return any_width<s16>(op);
    case Type::b32:
    case Type::u32: return any_width<u32>(op);
    case Type::s32: return any_width<s32>(op);
    case Type::b64:
    case Type::u64: return any_width<u64>(op);
    case Type::s64: return any_width<s64>(op);
    default: return nullptr;
  }
}

}  // namespace ptxsim::PTXSIM_LEVEL
