// Exchange between the lanes of a warp.
#include "ptxsim/launch.h"
#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

enum class Shuffle : u8 { up, down, butterfly, index };
enum class Vote : u8 { all, any, uniform, ballot };

void assign(Warp& w, s32 offset, u32 mask, u32 value) {
  u32& p = predicate(w, offset);
  p = (p & ~mask) | (value & mask);
}

// reg: d, a, b, c; reg[4]: predicate or none
void shuffle(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  u32 source[kLanes];
  const u32* a = reg<u32>(w, in.reg[1]);
  for (int i = 0; i < kLanes; ++i) source[i] = a[i];
  const u32 *b = reg<u32>(w, in.reg[2]), *c = reg<u32>(w, in.reg[3]);
  u32* d = in.reg[0] == kNoRegister ? nullptr : reg<u32>(w, in.reg[0]);
  u32 in_range = 0;
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const int distance = static_cast<int>(b[lane] & 31);
    const int clamp = static_cast<int>(c[lane] & 31), segment = static_cast<int>(c[lane] >> 8 & 31);
    const int high = (lane & segment) | (clamp & ~segment), low = lane & segment;
    int from = lane;
    bool valid = false;
    switch (static_cast<Shuffle>(in.variant)) {
      case Shuffle::up:
        from = lane - distance;
        valid = from >= high;
        break;
      case Shuffle::down:
        from = lane + distance;
        valid = from <= high;
        break;
      case Shuffle::butterfly:
        from = lane ^ distance;
        valid = from <= high;
        break;
      case Shuffle::index:
        from = low | (distance & ~segment);
        valid = from <= high;
        break;
    }
    if (!valid) from = lane;
    in_range |= static_cast<u32>(valid) << lane;
    u32 value = source[from];
    if (!(mask >> from & 1)) {
      w.block->launch().report(
          w, static_cast<u32>(lane), "inactive lane",
          "reads the register of lane " + std::to_string(from) + ", which does not take part");
      value = ~0u;
    }
    if (d) d[lane] = value;
  }
  if (in.reg[4] != kNoRegister) assign(w, in.reg[4], mask, in_range);
}

// reg[0]: predicate, or register for ballot; reg[1]: predicate
void vote(Warp& w, const Instruction& in, u32 mask) {
  const u32 p = predicate(w, in.reg[1]) & mask;
  switch (static_cast<Vote>(in.variant)) {
    case Vote::all: return assign(w, in.reg[0], mask, p == mask ? kAllLanes : 0);
    case Vote::any: return assign(w, in.reg[0], mask, p ? kAllLanes : 0);
    case Vote::uniform: return assign(w, in.reg[0], mask, p == mask || !p ? kAllLanes : 0);
    case Vote::ballot: break;
  }
  for (u32 m = mask; m; m &= m - 1) reg<u32>(w, in.reg[0])[__builtin_ctz(m)] = p;
}

template <class T, bool All>
void match(Warp& w, const Instruction& in, u32 mask) {
  T value[kLanes];
  for (int i = 0; i < kLanes; ++i) value[i] = reg<T>(w, in.reg[1])[i];
  bool equal = true;
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    u32 same = 0;
    for (u32 n = mask; n; n &= n - 1)
      if (value[__builtin_ctz(n)] == value[lane]) same |= n & (0u - n);
    equal &= same == mask;
    if (!All) reg<u32>(w, in.reg[0])[lane] = same;
  }
  if (!All) return;
  for (u32 m = mask; m; m &= m - 1) reg<u32>(w, in.reg[0])[__builtin_ctz(m)] = equal ? mask : 0;
  if (in.reg[4] != kNoRegister) assign(w, in.reg[4], mask, equal ? kAllLanes : 0);
}

template <class T, auto F>
void reduce(Warp& w, const Instruction& in, u32 mask) {
  const T* a = reg<T>(w, in.reg[1]);
  T total = a[__builtin_ctz(mask)];
  for (u32 m = mask & (mask - 1); m; m &= m - 1) total = F(total, a[__builtin_ctz(m)]);
  for (u32 m = mask; m; m &= m - 1) reg<T>(w, in.reg[0])[__builtin_ctz(m)] = total;
}

void elect(Warp& w, const Instruction& in, u32 mask) {
  const int leader = __builtin_ctz(mask);
  if (in.reg[0] != kNoRegister)
    for (u32 m = mask; m; m &= m - 1)
      reg<u32>(w, in.reg[0])[__builtin_ctz(m)] = static_cast<u32>(leader);
  assign(w, in.reg[1], mask, 1u << leader);
}

}  // namespace

void decode_shfl(Decoder& d, const Statement& s) {
  if (!s.has("sync")) d.unsupported();
  Instruction in;
  in.flow = Flow::warp_sync;
  const Operand& to = s.operands[0];
  if (to.kind == Operand::Kind::pair) {
    in.reg[0] = d.write(to.parts[0], Type::b32);
    in.reg[4] = d.write_predicate(to.parts[1]);
  } else {
    in.reg[0] = d.write(to, Type::b32);
  }
  for (size_t i = 1; i < 4; ++i) in.reg[i] = d.read(s.operands[i], Type::b32);
  in.reg[kMembers] = d.read(s.operands[4], Type::b32);
  in.variant = static_cast<u8>(s.has("up")     ? Shuffle::up
                               : s.has("down") ? Shuffle::down
                               : s.has("bfly") ? Shuffle::butterfly
                                               : Shuffle::index);
  in.run = shuffle;
  d.emit(in);
}

void decode_vote(Decoder& d, const Statement& s) {
  if (!s.has("sync")) d.unsupported();
  Instruction in;
  in.flow = Flow::warp_sync;
  const Vote kind = s.has("ballot") ? Vote::ballot
                    : s.has("all")  ? Vote::all
                    : s.has("any")  ? Vote::any
                                    : Vote::uniform;
  in.reg[1] = d.read_predicate(s.operands[1]);
  in.reg[0] =
      kind == Vote::ballot ? d.write(s.operands[0], Type::b32) : d.write_predicate(s.operands[0]);
  in.reg[kMembers] = d.read(s.operands[2], Type::b32);
  in.variant = static_cast<u8>(kind);
  in.run = vote;
  d.emit(in);
}

void decode_match(Decoder& d, const Statement& s) {
  Instruction in;
  in.flow = Flow::warp_sync;
  const bool all = s.has("all"), wide = last_type(s) == Type::b64;
  const Operand& to = s.operands[0];
  if (to.kind == Operand::Kind::pair) {
    in.reg[0] = d.write(to.parts[0], Type::b32);
    in.reg[4] = d.write_predicate(to.parts[1]);
  } else {
    in.reg[0] = d.write(to, Type::b32);
  }
  in.reg[1] = d.read(s.operands[1], last_type(s));
  in.reg[kMembers] = d.read(s.operands[2], Type::b32);
  in.run = all ? (wide ? match<u64, true> : match<u32, true>)
               : (wide ? match<u64, false> : match<u32, false>);
  d.emit(in);
}

void decode_redux(Decoder& d, const Statement& s) {
  const Type type = last_type(s);
  if (size_of(type) != 4 || type == Type::f32) d.unsupported();
  Instruction in;
  in.flow = Flow::warp_sync;
  in.reg[0] = d.write(s.operands[0], type);
  in.reg[1] = d.read(s.operands[1], type);
  in.reg[kMembers] = d.read(s.operands[2], Type::b32);
  const bool is_signed = type == Type::s32;
  if (s.has("add")) in.run = reduce<u32, [](u32 a, u32 b) { return a + b; }>;
  if (s.has("and")) in.run = reduce<u32, [](u32 a, u32 b) { return a & b; }>;
  if (s.has("or")) in.run = reduce<u32, [](u32 a, u32 b) { return a | b; }>;
  if (s.has("xor")) in.run = reduce<u32, [](u32 a, u32 b) { return a ^ b; }>;
  if (s.has("min"))
    in.run = is_signed ? reduce<s32, [](s32 a, s32 b) { return a < b ? a : b; }>
                       : reduce<u32, [](u32 a, u32 b) { return a < b ? a : b; }>;
  if (s.has("max"))
    in.run = is_signed ? reduce<s32, [](s32 a, s32 b) { return a < b ? b : a; }>
                       : reduce<u32, [](u32 a, u32 b) { return a < b ? b : a; }>;
  if (!in.run) d.unsupported();
  d.emit(in);
}

void decode_elect(Decoder& d, const Statement& s) {
  const Operand& to = s.operands[0];
  if (to.kind != Operand::Kind::pair) d.unsupported();
  Instruction in;
  in.flow = Flow::warp_sync;
  in.reg[0] = d.write(to.parts[0], Type::b32);
  in.reg[1] = d.write_predicate(to.parts[1]);
  in.reg[kMembers] = d.read(s.operands[1], Type::b32);
  in.run = elect;
  d.emit(in);
}

void decode_activemask(Decoder& d, const Statement& s) {
  Instruction in;
  in.reg[0] = d.write(s.operands[0], Type::b32);
  in.run = [](Warp& w, const Instruction& i, u32 mask) {
    for (u32 m = mask; m; m &= m - 1) reg<u32>(w, i.reg[0])[__builtin_ctz(m)] = mask;
  };
  d.emit(in);
}

}  // namespace ptxsim
