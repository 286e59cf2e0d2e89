// atom, red and the fences.
#include <algorithm>
#include <bit>
#include <cmath>

#include "ptxsim/access.h"
#include "ptxsim/formats.h"
#include "ptxsim/launch.h"
#include "ptxsim/op_memory.h"
#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, u16, std::conditional_t<sizeof(T) == 4, u32, u64>>;

// reg[0] the old value or none, reg[1] the address, reg[2] and reg[3] the operands; F(old, b, c).
template <class T, auto F>
void atomic(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  using B = Bits<T>;
  const bool wide = in.width == 8;  // bytes of an address
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u64 base = wide ? reg<u64>(w, in.reg[1])[lane] : reg<u32>(w, in.reg[1])[lane];
    const u64 address = base + static_cast<u64>(in.imm);
    const u32 l = static_cast<u32>(lane);
    u8* bytes = in.variant & kSharedSpace
                    ? shared_access(w, l, static_cast<u32>(address), sizeof(T), kAtomic)
                    : generic_access(w, l, address, sizeof(T), kAtomic);
    const T b = std::bit_cast<T>(reg<B>(w, in.reg[2])[lane]);
    const T c = in.reg[3] == kNoRegister ? T{} : std::bit_cast<T>(reg<B>(w, in.reg[3])[lane]);
    // Who sees the new value must find the clock that goes with it, and may run on another worker:
    // the clock is published before, and learnt after the operation.
    publish(w, l, address, in.variant);
    B* at = reinterpret_cast<B*>(bytes);
    B old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(at, &old, std::bit_cast<B>(F(std::bit_cast<T>(old), b, c)),
                                        false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
      continue;
    if (in.reg[0] != kNoRegister) reg<B>(w, in.reg[0])[lane] = old;
    observe(w, l, address, in.variant);
  }
  w.yields = w.block->cluster->random.below(8) == 0;  // others may be polling, or about to
}

template <float (*Widen)(u16), u16 (*Narrow)(float)>
u32 add_pair(u32 a, u32 b, u32) {
  const u16 low = Narrow(Widen(static_cast<u16>(a)) + Widen(static_cast<u16>(b)));
  const u16 high = Narrow(Widen(static_cast<u16>(a >> 16)) + Widen(static_cast<u16>(b >> 16)));
  return low | u32{high} << 16;
}

template <class T>
Handler integer_atomic(std::string_view op) {
  if (op == "add") return atomic<T, [](T a, T b, T) -> T { return a + b; }>;
  if (op == "min") return atomic<T, [](T a, T b, T) -> T { return std::min(a, b); }>;
  if (op == "max") return atomic<T, [](T a, T b, T) -> T { return std::max(a, b); }>;
  return nullptr;
}

template <class T>
Handler bits_atomic(std::string_view op) {
  if (op == "and") return atomic<T, [](T a, T b, T) -> T { return a & b; }>;
  if (op == "or") return atomic<T, [](T a, T b, T) -> T { return a | b; }>;
  if (op == "xor") return atomic<T, [](T a, T b, T) -> T { return a ^ b; }>;
  if (op == "exch") return atomic<T, [](T, T b, T) -> T { return b; }>;
  if (op == "cas") return atomic<T, [](T a, T b, T c) -> T { return a == b ? c : a; }>;
  return nullptr;
}

Handler find_atomic(std::string_view op, Type type) {
  if (op == "inc" && type == Type::u32)
    return atomic<u32, [](u32 a, u32 b, u32) -> u32 { return a < b ? a + 1 : 0; }>;
  if (op == "dec" && type == Type::u32)
    return atomic<u32, [](u32 a, u32 b, u32) -> u32 { return a == 0 || b < a ? b : a - 1; }>;
  switch (type) {
    case Type::u32: return integer_atomic<u32>(op);
    case Type::s32: return integer_atomic<s32>(op);
    case Type::u64: return integer_atomic<u64>(op);
    case Type::s64: return integer_atomic<s64>(op);
    case Type::b16: return bits_atomic<u16>(op);
    case Type::b32: return bits_atomic<u32>(op);
    case Type::b64: return bits_atomic<u64>(op);
    default: break;
  }
  if (op != "add") return nullptr;
  switch (type) {
    case Type::f32: return atomic<float, [](float a, float b, float) { return a + b; }>;
    case Type::f64: return atomic<double, [](double a, double b, double) { return a + b; }>;
    case Type::f16x2: return atomic<u32, add_pair<from_f16, to_f16>>;
    case Type::bf16x2: return atomic<u32, add_pair<from_bf16, to_bf16>>;
    case Type::f16:
      return atomic<u16, [](u16 a, u16 b, u16) { return to_f16(from_f16(a) + from_f16(b)); }>;
    case Type::bf16:
      return atomic<u16, [](u16 a, u16 b, u16) { return to_bf16(from_bf16(a) + from_bf16(b)); }>;
    default: return nullptr;
  }
}

}  // namespace

void decode_atom(Decoder& d, const Statement& s) {
  const bool reduces = s.parts[0] == "red";
  const Type type = last_type(s);
  std::string_view op;
  for (const char* name : {"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"})
    if (s.has(name)) op = name;
  if (s.has("v2") || s.has("v4") || s.has("v8") || s.has("async")) d.unsupported();
  const size_t first = reduces ? 0 : 1;
  const Decoder::Address a = d.address(s.operands[first]);
  Instruction in;
  in.reg[0] = reduces ? kNoRegister : d.write(s.operands[0], type);
  in.imm = a.offset;
  in.width = static_cast<u8>(a.base == kNoRegister ? 8 : a.size);
  in.reg[1] = a.base == kNoRegister ? d.constant(0, 8) : a.base;
  in.reg[2] = d.read(s.operands[first + 1], type);
  if (s.operands.size() > first + 2) in.reg[3] = d.read(s.operands[first + 2], type);
  in.variant = memory_flags(s) | kStrong;
  if (space_of(s) == Space::shared) in.variant |= kSharedSpace;
  in.run = find_atomic(op, type);
  if (!in.run) d.unsupported();
  d.emit(in);
}

// membar.*, fence.acq_rel, fence.sc and the proxy fences.
void decode_fence(Decoder& d, const Statement& s) {
  Instruction in;
  if (s.has("proxy") && s.parts.size() > 2 && s.parts[2].starts_with("async"))
    in.run = [](Warp& warp, const Instruction&, u32 mask) {
      RunningWarp& w = running(warp);
      w.proxy_fence = w.block->cluster->time;
      fence(w, mask);
    };
  else
    in.run = [](Warp& w, const Instruction&, u32 mask) { fence(running(w), mask); };
  d.emit(in);
}

}  // namespace ptxsim
