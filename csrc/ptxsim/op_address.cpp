// Conversion between addresses of a space and generic addresses.
#include "ptxsim/access.h"
#include "ptxsim/op_memory.h"
#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

// imm: what to add
void shift_address(Warp& w, const Instruction& in, u32 mask) {
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    reg<u64>(w, in.reg[0])[lane] = reg<u64>(w, in.reg[1])[lane] + static_cast<u64>(in.imm);
  }
}

// imm: Space
void is_in_space(Warp& w, const Instruction& in, u32 mask) {
  u32 bits = 0;
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u64 address = reg<u64>(w, in.reg[1])[lane];
    const bool shared = address - shared_window() < kWindowBytes;
    const bool local = address - local_window() < kWindowBytes;
    const auto space = static_cast<Space>(in.imm);
    const bool is = space == Space::shared  ? shared
                    : space == Space::local ? local
                                            : !shared && !local;
    bits |= static_cast<u32>(is) << lane;
  }
  u32& p = predicate(w, in.reg[0]);
  p = (p & ~mask) | bits;
}

// The address of the same variable in block `reg[2]` of the cluster.
template <class T>
void map_address(Warp& w, const Instruction& in, u32 mask) {
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u64 base = sizeof(T) == 8 ? shared_window() : 0;
    const u32 offset = offset_of(static_cast<u32>(reg<T>(w, in.reg[1])[lane] - base));
    const u32 rank = reg<u32>(w, in.reg[2])[lane];
    reg<T>(w, in.reg[0])[lane] = static_cast<T>(base + (((rank + 1) << kRankShift) | offset));
  }
}

}  // namespace

void decode_cvta(Decoder& d, const Statement& s) {
  const Space space = space_of(s);
  const bool to_space = s.has("to");
  Instruction in;
  in.reg[0] = d.write(s.operands[0], Type::b64);
  in.reg[1] = d.read(s.operands[1], Type::b64);
  const u64 window = space == Space::shared  ? shared_window()
                     : space == Space::local ? local_window()
                                             : 0;
  in.imm = static_cast<s64>(to_space ? u64{0} - window : window);
  in.run = shift_address;
  d.emit(in);
}

void decode_isspacep(Decoder& d, const Statement& s) {
  Instruction in;
  in.reg[0] = d.write_predicate(s.operands[0]);
  in.reg[1] = d.read(s.operands[1], Type::b64);
  in.imm = static_cast<s64>(space_of(s));
  in.run = is_in_space;
  d.emit(in);
}

void decode_mapa(Decoder& d, const Statement& s) {
  const Type type = last_type(s);
  Instruction in;
  in.reg[0] = d.write(s.operands[0], type);
  in.reg[1] = d.read(s.operands[1], type);
  in.reg[2] = d.read(s.operands[2], Type::b32);
  in.run = size_of(type) == 8 ? map_address<u64> : map_address<u32>;
  d.emit(in);
}

}  // namespace ptxsim
