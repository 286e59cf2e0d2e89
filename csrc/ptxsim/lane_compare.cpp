// Comparisons into predicates, and selection by one.
#include "ptxsim/formats.h"
#include "ptxsim/lane_level.h"
#include "ptxsim/lanes.h"

namespace ptxsim::PTXSIM_LEVEL {
namespace {

inline u32 joined(Join join, u32 result, u32 other) {
  switch (join) {
    case Join::and_: return result & other;
    case Join::or_: return result | other;
    case Join::xor_: return result ^ other;
    default: return result;
  }
}

inline void assign(Warp& w, s32 offset, u32 value, u32 mask) {
  u32& p = predicate(w, offset);
  p = (p & ~mask) | (value & mask);
}

// p = F(a, b) join c, q = !F(a, b) join c; imm: Join, with its third bit negating c.
template <class S, auto F>
void compare(Warp& w, const Instruction& in, u32 mask) {
  const S *a = reg<S>(w, in.reg[1]), *b = reg<S>(w, in.reg[2]);
  const u32 result = lane_bits([=](int i) { return F(a[i], b[i]); });
  const Join join = static_cast<Join>(in.imm & 3);
  u32 other = join == Join::none ? 0 : predicate(w, in.reg[4]);
  if (in.imm & 4) other = ~other;
  if (in.reg[0] != kNoRegister) assign(w, in.reg[0], joined(join, result, other), mask);
  if (in.reg[3] != kNoRegister) assign(w, in.reg[3], joined(join, ~result, other), mask);
}

struct Plain {
  template <class T>
  static T widen(T x) {
    return x;
  }
};
struct Half {
  static float widen(u16 x) { return from_f16(x); }
};
struct BHalf {
  static float widen(u16 x) { return from_bf16(x); }
};

template <class S, class Format, auto F>
Handler on() {
  return compare<S, [](S a, S b) { return F(Format::widen(a), Format::widen(b)); }>;
}

template <class S, class Format = Plain>
Handler ordered(Compare c) {
  switch (c) {
    case Compare::eq: return on<S, Format, [](auto a, auto b) { return a == b; }>();
    case Compare::lt: return on<S, Format, [](auto a, auto b) { return a < b; }>();
    case Compare::le: return on<S, Format, [](auto a, auto b) { return a <= b; }>();
    case Compare::gt: return on<S, Format, [](auto a, auto b) { return b < a; }>();
    case Compare::ge: return on<S, Format, [](auto a, auto b) { return b <= a; }>();
    case Compare::ne: return on<S, Format, [](auto a, auto b) { return a < b || b < a; }>();
    default: return nullptr;
  }
}

// The forms that hold when an operand is NaN.
template <class S, class Format = Plain>
Handler with_nan(Compare c) {
  switch (c) {
    case Compare::equ: return on<S, Format, [](auto a, auto b) { return !(a < b || b < a); }>();
    case Compare::neu: return on<S, Format, [](auto a, auto b) { return !(a == b); }>();
    case Compare::ltu: return on<S, Format, [](auto a, auto b) { return !(b <= a); }>();
    case Compare::leu: return on<S, Format, [](auto a, auto b) { return !(b < a); }>();
    case Compare::gtu: return on<S, Format, [](auto a, auto b) { return !(a <= b); }>();
    case Compare::geu: return on<S, Format, [](auto a, auto b) { return !(a < b); }>();
    case Compare::num: return on<S, Format, [](auto a, auto b) { return a == a && b == b; }>();
    case Compare::nan: return on<S, Format, [](auto a, auto b) { return a != a || b != b; }>();
    default: return ordered<S, Format>(c);
  }
}

template <class T>
void select(Warp& w, const Instruction& in, u32 mask) {
  const T *a = reg<T>(w, in.reg[1]), *b = reg<T>(w, in.reg[2]);
  const u32 p = predicate(w, in.reg[3]);
  write_lanes(reg<T>(w, in.reg[0]), mask, [=](int i) { return p >> i & 1 ? a[i] : b[i]; });
}

}  // namespace

Handler compare_handler(Compare compare, Type type) {
  switch (type) {
    case Type::b16:
    case Type::u16: return ordered<u16>(compare);
    case Type::s16: return ordered<s16>(compare);
    case Type::b32:
    case Type::u32: return ordered<u32>(compare);
    case Type::s32: return ordered<s32>(compare);
    case Type::b64:
    case Type::u64: return ordered<u64>(compare);
    case Type::s64: return ordered<s64>(compare);
    case Type::f32: return with_nan<float>(compare);
    case Type::f64: return with_nan<double>(compare);
    case Type::f16: return with_nan<u16, Half>(compare);
    case Type::bf16: return with_nan<u16, BHalf>(compare);
    default: return nullptr;
  }
}

Handler select_handler(int bytes) {
  switch (bytes) {
    case 2: return select<u16>;
    case 4: return select<u32>;
    case 8: return select<u64>;
    default: return nullptr;
  }
}

}  // namespace ptxsim::PTXSIM_LEVEL
