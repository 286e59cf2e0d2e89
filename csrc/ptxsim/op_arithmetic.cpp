// Integer and floating-point arithmetic: decoding only, the handlers work on all lanes
// (lane_*.cpp).
#include <cfenv>
#include <map>

#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

using Names = std::map<std::string_view, Op>;

// An instruction of the host under a rounding mode; imm2 holds the handler that does the work.
void run_rounded(Warp& w, const Instruction& in, u32 mask) {
  static constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  std::fesetround(kModes[in.variant]);
  reinterpret_cast<Handler>(in.imm2)(w, in, mask);
  std::fesetround(FE_TONEAREST);
}

Op carry_form(const Statement& s, Op plain) {
  const bool writes = s.has("cc"), high = s.has("hi");
  const std::string& root = s.parts[0];
  if (root == "addc") return writes ? Op::addc_cc : Op::addc;
  if (root == "subc") return writes ? Op::subc_cc : Op::subc;
  if (root == "madc")
    return high ? (writes ? Op::madc_hi_cc : Op::madc_hi) : (writes ? Op::madc_lo_cc : Op::madc_lo);
  if (!writes) return plain;
  if (root == "add") return Op::add_cc;
  if (root == "sub") return Op::sub_cc;
  return high ? Op::mad_hi_cc : Op::mad_lo_cc;
}

Op integer_op(Decoder& d, const Statement& s) {
  static const Names names = {
      {"add", Op::add},  {"sub", Op::sub},  {"mul", Op::mul}, {"mad", Op::mad}, {"addc", Op::add},
      {"subc", Op::sub}, {"madc", Op::mad}, {"div", Op::div}, {"rem", Op::rem}, {"min", Op::min},
      {"max", Op::max},  {"neg", Op::neg},  {"abs", Op::abs}, {"sad", Op::sad}};
  const auto it = names.find(s.parts[0]);
  if (it == names.end()) d.unsupported();
  Op op = it->second;
  if (op == Op::mul) op = s.has("wide") ? Op::mul_wide : s.has("hi") ? Op::mul_hi : op;
  if (op == Op::mad) op = s.has("wide") ? Op::mad_wide : s.has("hi") ? Op::mad_hi : op;
  return carry_form(s, op);
}

Type widened(Type type) {
  switch (type) {
    case Type::u16: return Type::u32;
    case Type::s16: return Type::s32;
    case Type::u32: return Type::u64;
    case Type::s32: return Type::s64;
    default: return Type::none;
  }
}

void decode_integer(Decoder& d, const Statement& s, Type type) {
  if (s.has("sat")) d.unsupported();
  const Op op = integer_op(d, s);
  const bool wide = op == Op::mul_wide || op == Op::mad_wide;
  Instruction in;
  in.reg[0] = d.write(s.operands[0], wide ? widened(type) : type);
  for (size_t i = 1; i < s.operands.size(); ++i)
    in.reg[i] = d.read(s.operands[i], op == Op::mad_wide && i == 3 ? widened(type) : type);
  d.emit_lanes(in, lane_handlers().integer(op, type));
}

Op float_op(Decoder& d, const Statement& s) {
  static const Names names = {
      {"add", Op::add}, {"sub", Op::sub},   {"mul", Op::mul},          {"fma", Op::fma},
      {"mad", Op::fma}, {"div", Op::div},   {"min", Op::min},          {"max", Op::max},
      {"neg", Op::neg}, {"abs", Op::abs},   {"sqrt", Op::sqrt},        {"rsqrt", Op::rsqrt},
      {"rcp", Op::rcp}, {"sin", Op::sin},   {"cos", Op::cos},          {"ex2", Op::ex2},
      {"lg2", Op::lg2}, {"tanh", Op::tanh}, {"copysign", Op::copysign}};
  const auto it = names.find(s.parts[0]);
  if (it == names.end()) d.unsupported();
  if (it->second == Op::min && s.has("NaN")) return Op::min_nan;
  if (it->second == Op::max && s.has("NaN")) return Op::max_nan;
  if (it->second == Op::fma && s.has("relu")) return Op::fma_relu;
  return it->second;
}

void assign(Warp& w, const Instruction& in, u32 mask, u32 value) {
  u32& p = predicate(w, in.reg[0]);
  p = (p & ~mask) | (value & mask);
}

}  // namespace

Type last_type(const Statement& s) { return parse_type(s.parts.back()); }

bool is_float(Type type) {
  return type == Type::f16 || type == Type::f16x2 || type == Type::bf16 || type == Type::bf16x2 ||
         type == Type::f32 || type == Type::f64;
}

Rounding rounding_of(const Statement& s, bool* given) {
  static const std::map<std::string_view, Rounding> names = {
      {"rn", Rounding::nearest},   {"rz", Rounding::zero},         {"rm", Rounding::down},
      {"rp", Rounding::up},        {"rni", Rounding::int_nearest}, {"rzi", Rounding::int_zero},
      {"rmi", Rounding::int_down}, {"rpi", Rounding::int_up},      {"rna", Rounding::away}};
  for (const std::string& part : s.parts)
    if (const auto it = names.find(part); it != names.end()) {
      if (given) *given = true;
      return it->second;
    }
  return Rounding::nearest;
}

Handler round_as(Instruction& in, Handler handler, Rounding rounding) {
  if (!handler || rounding == Rounding::nearest) return handler;
  in.variant = static_cast<u8>(rounding);
  in.imm2 = reinterpret_cast<s64>(handler);
  return run_rounded;
}

void decode_arithmetic(Decoder& d, const Statement& s) {
  const Type type = last_type(s);
  if (!is_float(type)) return decode_integer(d, s, type);
  const Rounding rounding = rounding_of(s);
  Instruction in;
  in.reg[0] = d.write(s.operands[0], type);
  for (size_t i = 1; i < s.operands.size(); ++i) in.reg[i] = d.read(s.operands[i], type);
  const bool half = size_of(type) == 2 || type == Type::f16x2 || type == Type::bf16x2;
  if (half && (s.has("sat") || rounding != Rounding::nearest)) d.unsupported();
  const Handler handler = lane_handlers().floating(float_op(d, s), type,
                                                   s.has("ftz") && type == Type::f32, s.has("sat"));
  d.emit_lanes(in, round_as(in, handler, rounding));
}

// The shift amount is 32 bits whatever the type.
void decode_shift(Decoder& d, const Statement& s) {
  const Type type = last_type(s);
  Instruction in;
  in.reg[0] = d.write(s.operands[0], type);
  in.reg[1] = d.read(s.operands[1], type);
  if (s.parts[0] == "shf") {
    in.reg[2] = d.read(s.operands[2], type);
    in.reg[3] = d.read(s.operands[3], Type::u32);
    in.imm = s.has("wrap");
    return d.emit_lanes(
        in, lane_handlers().integer(s.has("l") ? Op::funnel_left : Op::funnel_right, type));
  }
  in.reg[2] = d.read(s.operands[2], Type::u32);
  d.emit_lanes(in, lane_handlers().integer(s.parts[0] == "shl" ? Op::shl : Op::shr, type));
}

void decode_bits(Decoder& d, const Statement& s) {
  static const Names names = {{"popc", Op::popc}, {"clz", Op::clz},   {"bfind", Op::bfind},
                              {"brev", Op::brev}, {"bfe", Op::bfe},   {"bfi", Op::bfi},
                              {"prmt", Op::prmt}, {"lop3", Op::lop3}, {"dp4a", Op::dp4a}};
  const Type type = last_type(s);
  Op op = names.at(s.parts[0]);
  if (op == Op::bfind && s.has("shiftamt")) op = Op::bfind_shift;
  if (op == Op::prmt && s.parts.size() != 2) d.unsupported();  // the special modes
  if (op == Op::dp4a && s.parts[1] != s.parts[2]) d.unsupported();
  const bool counts = op == Op::popc || op == Op::clz || op == Op::bfind || op == Op::bfind_shift;
  Instruction in;
  in.reg[0] = d.write(s.operands[0], counts ? Type::u32 : type);
  if (op == Op::lop3) {
    if (s.parts.size() != 2) d.unsupported();  // with a predicate
    for (size_t i = 1; i < 4; ++i) in.reg[i] = d.read(s.operands[i], type);
    in.imm = d.immediate(s.operands[4]);
  } else {
    // Positions and lengths of bit fields are 32 bits.
    const size_t first_count = op == Op::bfe ? 2 : op == Op::bfi ? 3 : 9;
    for (size_t i = 1; i < s.operands.size(); ++i)
      in.reg[i] = d.read(s.operands[i], i >= first_count ? Type::u32 : type);
  }
  d.emit_lanes(in, lane_handlers().integer(op, type));
}

void decode_logic(Decoder& d, const Statement& s) {
  static const Names names = {{"and", Op::bit_and},
                              {"or", Op::bit_or},
                              {"xor", Op::bit_xor},
                              {"not", Op::bit_not},
                              {"cnot", Op::logical_not}};
  const Op op = names.at(s.parts[0]);
  const Type type = last_type(s);
  Instruction in;
  if (type != Type::pred) {
    in.reg[0] = d.write(s.operands[0], type);
    for (size_t i = 1; i < s.operands.size(); ++i) in.reg[i] = d.read(s.operands[i], type);
    return d.emit_lanes(in, lane_handlers().integer(op, type));
  }
  for (size_t i = 1; i < s.operands.size(); ++i) in.reg[i] = d.read_predicate(s.operands[i]);
  in.reg[0] = d.write_predicate(s.operands[0]);
  switch (op) {
    case Op::bit_and:
      in.run = [](Warp& w, const Instruction& i, u32 mask) {
        assign(w, i, mask, predicate(w, i.reg[1]) & predicate(w, i.reg[2]));
      };
      break;
    case Op::bit_or:
      in.run = [](Warp& w, const Instruction& i, u32 mask) {
        assign(w, i, mask, predicate(w, i.reg[1]) | predicate(w, i.reg[2]));
      };
      break;
    case Op::bit_xor:
      in.run = [](Warp& w, const Instruction& i, u32 mask) {
        assign(w, i, mask, predicate(w, i.reg[1]) ^ predicate(w, i.reg[2]));
      };
      break;
    default:
      in.run = [](Warp& w, const Instruction& i, u32 mask) {
        assign(w, i, mask, ~predicate(w, i.reg[1]));
      };
      break;
  }
  d.emit(in);
}

}  // namespace ptxsim
