// mov, cvt, setp, set, selp.
#include <map>

#include "ptxsim/block.h"
#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

// Parts of a register, lowest first: mov.b64 d, {a, b} and mov.b64 {a, b}, d.
template <class Whole, class Part>
void pack(Warp& w, const Instruction& in, u32 mask) {
  constexpr int kParts = sizeof(Whole) / sizeof(Part);
  const s32* parts = w.lists + in.list;
  Whole* d = reg<Whole>(w, in.reg[0]);
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    Whole value = 0;
    for (int k = 0; k < kParts; ++k)
      value |= static_cast<Whole>(reg<Part>(w, parts[k])[lane]) << (8 * sizeof(Part) * k);
    d[lane] = value;
  }
}

template <class Whole, class Part>
void unpack(Warp& w, const Instruction& in, u32 mask) {
  constexpr int kParts = sizeof(Whole) / sizeof(Part);
  const s32* parts = w.lists + in.list;
  const Whole* a = reg<Whole>(w, in.reg[1]);
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const Whole value = a[lane];
    for (int k = 0; k < kParts; ++k)
      if (parts[k] != kNoRegister)
        reg<Part>(w, parts[k])[lane] = static_cast<Part>(value >> (8 * sizeof(Part) * k));
  }
}

void decode_pack(Decoder& d, const Statement& s, Type type) {
  const bool packs = s.operands[1].kind == Operand::Kind::list;
  const Operand& parts = packs ? s.operands[1] : s.operands[0];
  const int size = size_of(type), part = size / static_cast<int>(parts.parts.size());
  const Type part_type = part == 2 ? Type::b16 : Type::b32;
  Instruction in;
  in.list = d.list(packs ? d.read_all(parts, part_type) : d.write_all(parts, part_type));
  in.reg[packs ? 0 : 1] = packs ? d.write(s.operands[0], type) : d.read(s.operands[1], type);
  if (size == 4 && part == 2) in.run = packs ? pack<u32, u16> : unpack<u32, u16>;
  if (size == 8 && part == 4) in.run = packs ? pack<u64, u32> : unpack<u64, u32>;
  if (size == 8 && part == 2) in.run = packs ? pack<u64, u16> : unpack<u64, u16>;
  d.emit_lanes(in, in.run);
}

// Instructions that the cluster has executed so far: it advances, which is what a clock is read
// for.
void read_clock(Warp& w, const Instruction& in, u32 mask) {
  const u64 now = running(w).block->cluster->instructions;
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    if (in.width == 8)
      reg<u64>(w, in.reg[0])[lane] = now;
    else
      reg<u32>(w, in.reg[0])[lane] = static_cast<u32>(now);
  }
}

}  // namespace

void decode_mov(Decoder& d, const Statement& s) {
  Type type = last_type(s);
  if (s.operands[0].kind == Operand::Kind::list || s.operands[1].kind == Operand::Kind::list)
    return decode_pack(d, s, type);
  Instruction in;
  if (type == Type::pred) {
    in.reg[0] = d.write_predicate(s.operands[0]);
    in.reg[1] = d.read_predicate(s.operands[1]);
    in.run = [](Warp& w, const Instruction& i, u32 mask) {
      u32& p = predicate(w, i.reg[0]);
      p = (p & ~mask) | (predicate(w, i.reg[1]) & mask);
    };
    return d.emit(in);
  }
  const int size = size_of(type);
  type = size == 2 ? Type::b16 : size == 4 ? Type::b32 : Type::b64;
  in.reg[0] = d.write(s.operands[0], type);
  const Operand& from = s.operands[1];
  if (from.kind == Operand::Kind::special &&
      (from.text.starts_with("%clock") || from.text == "%globaltimer")) {
    in.width = static_cast<u8>(size);
    in.run = read_clock;
    return d.emit(in);
  }
  in.reg[1] = d.read(from, type);
  d.emit_lanes(in, lane_handlers().integer(Op::mov, type));
}

void decode_cvt(Decoder& d, const Statement& s) {
  const size_t parts = s.parts.size();
  Conversion how;
  how.to = parse_type(s.parts[parts - 2]);
  how.from = parse_type(s.parts[parts - 1]);
  bool rounds = false;
  how.rounding = rounding_of(s, &rounds);
  how.saturate = s.has("sat") || s.has("satfinite");
  how.relu = s.has("relu");
  const bool to_float = is_float(how.to);
  // float8 always saturates, which is what .satfinite asks for.
  if (how.to == Type::e4m3x2 || how.to == Type::e5m2x2) how.saturate = false;
  if (how.saturate && to_float && how.to != Type::f32 && how.to != Type::f64) d.unsupported();
  if (how.to == Type::tf32 && how.rounding != Rounding::away && how.rounding != Rounding::nearest)
    d.unsupported();

  Instruction in;
  in.variant = static_cast<u8>(how.rounding);
  in.imm = static_cast<s64>(how.to);
  in.imm2 = static_cast<s64>(how.from);
  in.reg[0] = d.write_narrow(s.operands[0], how.to);
  for (size_t i = 1; i < s.operands.size(); ++i) in.reg[i] = d.read_narrow(s.operands[i], how.from);
  Handler handler = lane_handlers().convert(how);
  const bool directed = rounds && (how.rounding == Rounding::zero ||
                                   how.rounding == Rounding::down || how.rounding == Rounding::up);
  const bool truncation = how.rounding == Rounding::zero &&
                          (how.to == Type::bf16 || how.to == Type::bf16x2) && how.from == Type::f32;
  if (directed && !truncation) {
    if (how.to != Type::f32 && how.to != Type::f64) d.unsupported();
    const bool exact = is_float(how.from) && size_of(how.from) < size_of(how.to);
    if (!exact) handler = round_as(in, handler, how.rounding);
  }
  d.emit_lanes(in, handler);
  d.widen_written(s.operands[0], how.to);
}

namespace {

Compare compare_of(Decoder& d, const std::string& name) {
  static const std::map<std::string_view, Compare> names = {
      {"eq", Compare::eq},   {"ne", Compare::ne},   {"lt", Compare::lt},   {"le", Compare::le},
      {"gt", Compare::gt},   {"ge", Compare::ge},   {"lo", Compare::lt},   {"ls", Compare::le},
      {"hi", Compare::gt},   {"hs", Compare::ge},   {"equ", Compare::equ}, {"neu", Compare::neu},
      {"ltu", Compare::ltu}, {"leu", Compare::leu}, {"gtu", Compare::gtu}, {"geu", Compare::geu},
      {"num", Compare::num}, {"nan", Compare::nan}};
  const auto it = names.find(name);
  if (it == names.end()) d.unsupported();
  return it->second;
}

}  // namespace

void decode_setp(Decoder& d, const Statement& s) {
  const Type type = last_type(s);
  Instruction in;
  const Operand& to = s.operands[0];
  if (to.kind == Operand::Kind::pair) {
    in.reg[0] = d.write_predicate(to.parts[0]);
    in.reg[3] = d.write_predicate(to.parts[1]);
  } else {
    in.reg[0] = d.write_predicate(to);
  }
  in.reg[1] = d.read(s.operands[1], type);
  in.reg[2] = d.read(s.operands[2], type);
  if (s.operands.size() > 3) {
    in.imm = static_cast<s64>(s.has("and") ? Join::and_ : s.has("or") ? Join::or_ : Join::xor_);
    in.reg[4] = d.read_predicate(s.operands[3]);
  }
  d.emit_lanes(in, lane_handlers().compare(compare_of(d, s.parts[1]), type));
}

// set: like setp, but the result is all ones or 1.0 in a register.
void decode_set(Decoder& d, const Statement& s) {
  const Type type = last_type(s), to = parse_type(s.parts[s.parts.size() - 2]);
  if (s.operands.size() > 3 || size_of(to) != 4) d.unsupported();
  Instruction compare;
  compare.reg[0] = d.temporary(0);
  compare.reg[1] = d.read(s.operands[1], type);
  compare.reg[2] = d.read(s.operands[2], type);
  d.emit_lanes(compare, lane_handlers().compare(compare_of(d, s.parts[1]), type));
  Instruction select;
  select.reg[0] = d.write(s.operands[0], to);
  select.reg[1] = d.constant(to == Type::f32 ? 0x3f800000 : ~0u, 4);
  select.reg[2] = d.constant(0, 4);
  select.reg[3] = compare.reg[0];
  d.emit_lanes(select, lane_handlers().select(4));
}

void decode_selp(Decoder& d, const Statement& s) {
  const Type type = last_type(s);
  Instruction in;
  in.reg[0] = d.write(s.operands[0], type);
  in.reg[1] = d.read(s.operands[1], type);
  in.reg[2] = d.read(s.operands[2], type);
  in.reg[3] = d.read_predicate(s.operands[3]);
  d.emit_lanes(in, lane_handlers().select(size_of(type)));
}

}  // namespace ptxsim
