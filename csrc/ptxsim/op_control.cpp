// Branches, calls, barriers, and what only guides the hardware.
#include "ptxsim/block.h"
#include "ptxsim/opcodes.h"
#include "ptxsim/synchronise.h"

namespace ptxsim {
namespace {

void emit_flow(Decoder& d, Flow flow) {
  Instruction in;
  in.flow = flow;
  d.emit(in);
}

}  // namespace

void decode_bra(Decoder& d, const Statement& s) { d.branch_to(s.operands[0]); }
void decode_call(Decoder& d, const Statement& s) { d.call(s); }
void decode_ret(Decoder& d, const Statement&) { emit_flow(d, Flow::ret); }
void decode_exit(Decoder& d, const Statement&) { emit_flow(d, Flow::exit); }
void decode_trap(Decoder& d, const Statement&) { emit_flow(d, Flow::trap); }

void decode_nanosleep(Decoder& d, const Statement&) {
  Instruction in;
  in.run = [](Warp& w, const Instruction&, u32) { running(w).yields = true; };
  d.emit(in);
}

void decode_hint(Decoder& d, const Statement&) {
  Instruction in;
  in.run = [](Warp&, const Instruction&, u32) {};
  d.emit(in);
}

// A cache policy is a number that only the hardware understands.
void decode_createpolicy(Decoder& d, const Statement& s) {
  Instruction in;
  in.reg[0] = d.write(s.operands[0], Type::b64);
  in.reg[1] = d.constant(0, 8);
  d.emit_lanes(in, lane_handlers().integer(Op::mov, Type::b64));
}

// bar{.cta}.{sync,arrive,red}, barrier{.cta}.., bar.warp.sync
void decode_bar(Decoder& d, const Statement& s) {
  Instruction in;
  if (s.has("warp")) {
    in.flow = Flow::warp_sync;  // without a handler: the scheduler does it
    in.reg[kMembers] = d.read(s.operands[0], Type::b32);
    return d.emit(in);
  }
  if (s.has("cluster")) return decode_cluster_barrier(d, s);
  in.flow = Flow::barrier;
  size_t next = 0;
  BarrierKind kind = BarrierKind::sync;
  if (s.has("arrive")) kind = BarrierKind::arrive;
  if (s.has("red")) {
    kind = s.has("popc")  ? BarrierKind::red_popc
           : s.has("and") ? BarrierKind::red_and
                          : BarrierKind::red_or;
    in.reg[2] = kind == BarrierKind::red_popc ? d.write(s.operands[0], Type::u32)
                                              : d.write_predicate(s.operands[0]);
    in.reg[3] = d.read_predicate(s.operands.back());
    next = 1;
  }
  in.variant = static_cast<u8>(kind);
  const auto number = [&](const Operand& o, s32& reg, s64& imm) {
    if (o.kind == Operand::Kind::immediate)
      imm = static_cast<s64>(o.bits);
    else
      reg = d.read(o, Type::b32);
  };
  const size_t last = s.operands.size() - (in.reg[3] == kNoRegister ? 0 : 1);
  number(s.operands[next], in.reg[0], in.imm);
  if (next + 1 < last) number(s.operands[next + 1], in.reg[1], in.imm2);
  d.emit(in);
}

}  // namespace ptxsim
