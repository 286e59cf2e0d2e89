#include "ptxsim/decoder.h"

#include <algorithm>
#include <set>

namespace ptxsim {
namespace {

constexpr u32 kLine = 64;          // registers start on cache lines
constexpr u32 kSharedGap = 16;     // between static shared variables
constexpr u32 kTruePredicate = 0;  // offset of a predicate that always holds

u64 aligned(u64 value, u64 to) { return (value + to - 1) / to * to; }

}  // namespace

Decoder::Decoder(const LoadedModule& module, Program& program,
                 std::map<std::string, int>& unsupported)
    : module_(module), program_(program), unsupported_(unsupported) {
  program_.register_bytes = kLine;
  for (u32 offset = kLine - 4; offset > kTruePredicate; offset -= 4)
    predicate_pool_.push_back(static_cast<s32>(offset));
  program_.constants.push_back({kTruePredicate, 0, kAllLanes});
}

s32 Decoder::allocate(int bytes) {
  if (bytes == 0) {
    if (predicate_pool_.empty()) {
      for (u32 i = kLine; i > 0; i -= 4)
        predicate_pool_.push_back(static_cast<s32>(program_.register_bytes + i - 4));
      program_.register_bytes += kLine;
    }
    const s32 offset = predicate_pool_.back();
    predicate_pool_.pop_back();
    return offset;
  }
  const s32 offset = static_cast<s32>(program_.register_bytes);
  program_.register_bytes += static_cast<u32>(aligned(static_cast<u64>(bytes) * kLanes, kLine));
  return offset;
}

s32 Decoder::temporary(int size) { return allocate(size); }

s32 Decoder::constant(u64 bits, int size, bool param) {
  if (size > 0 && size < 8) bits &= (u64{1} << (8 * size)) - 1;
  auto& known = param ? param_constants_ : constants_;
  const auto [it, added] = known.try_emplace({size, bits}, 0);
  if (added) {
    it->second = allocate(size);
    program_.constants.push_back({it->second, size, bits, param});
  }
  return it->second;
}

int Decoder::register_size(const Operand& operand) const {
  if (operand.kind != Operand::Kind::reg) return 0;
  return std::max(size_of(function_->registers[operand.index].type), 2);
}

bool Decoder::is_predicate(const Operand& operand) const {
  return operand.kind == Operand::Kind::reg &&
         function_->registers[operand.index].type == Type::pred;
}

s64 Decoder::immediate(const Operand& operand) const {
  if (operand.kind != Operand::Kind::immediate) unsupported("operand that is no immediate");
  return static_cast<s64>(operand.bits);
}

s32 Decoder::offset_of(const Operand& operand, Type type) {
  const Type declared = function_->registers[operand.index].type;
  if ((declared == Type::pred) != (type == Type::pred) ||
      (type != Type::pred && register_size(operand) != std::max(size_of(type), 2)))
    unsupported("operand width");
  s32& offset = registers_[operand.index];
  if (offset == kNoRegister) offset = allocate(declared == Type::pred ? 0 : register_size(operand));
  return offset;
}

s32 Decoder::read(const Operand& operand, Type type) {
  const int size = std::max(size_of(type), 2);
  switch (operand.kind) {
    case Operand::Kind::reg: return offset_of(operand, type);
    case Operand::Kind::immediate: return constant(operand.bits, size);
    case Operand::Kind::special:
      if (size != 4) unsupported("width of " + operand.text);
      return special(operand.text);
    case Operand::Kind::variable: {
      const Space space = module_.syntax().variables[operand.index].space;
      if (space == Space::shared)
        return constant(shared_offset(operand.index) + operand.bits, size);
      if (space == Space::local) return constant(local_offset(operand.index) + operand.bits, size);
      if (space != Space::param)
        return constant(module_.address_of(operand.index) + operand.bits, size);
      const auto param = kernel_params_.find(operand.index);
      if (param == kernel_params_.end()) unsupported("address of a call's parameter");
      return constant(param->second + operand.bits, size, true);
    }
    default: unsupported("operand");
  }
}

s32 Decoder::write(const Operand& operand, Type type) {
  if (operand.kind == Operand::Kind::sink) return kNoRegister;
  if (operand.kind != Operand::Kind::reg) unsupported("destination");
  return offset_of(operand, type);
}

s32 Decoder::read_predicate(const Operand& operand) {
  if (operand.kind == Operand::Kind::immediate) return constant(operand.bits ? kAllLanes : 0, 0);
  if (operand.kind != Operand::Kind::reg) unsupported("predicate");
  const s32 offset = offset_of(operand, Type::pred);
  if (!operand.negated) return offset;
  Instruction invert;
  invert.reg[0] = temporary(0);
  invert.reg[1] = offset;
  invert.run = [](Warp& w, const Instruction& in, u32) {
    predicate(w, in.reg[0]) = ~predicate(w, in.reg[1]);
  };
  emit(invert);
  return invert.reg[0];
}

s32 Decoder::read_narrow(const Operand& operand, Type type) {
  const int size = std::max(size_of(type), 2), wide = register_size(operand);
  if (wide <= size) return read(operand, type);
  Instruction in;
  in.reg[0] = temporary(size);
  in.reg[1] = read(operand, wide == 8 ? Type::b64 : Type::b32);
  emit_lanes(in, lane_handlers().convert(
                     {size == 2 ? Type::u16 : Type::u32, wide == 8 ? Type::u64 : Type::u32}));
  return in.reg[0];
}

s32 Decoder::write_narrow(const Operand& operand, Type type) {
  const int size = std::max(size_of(type), 2);
  narrow_ = register_size(operand) > size ? temporary(size) : kNoRegister;
  return narrow_ == kNoRegister ? write(operand, type) : narrow_;
}

void Decoder::widen_written(const Operand& operand, Type type) {
  if (narrow_ == kNoRegister) return;
  const int size = std::max(size_of(type), 2), wide = register_size(operand);
  Instruction in;
  in.reg[0] = write(operand, wide == 8 ? Type::b64 : Type::b32);
  in.reg[1] = narrow_;
  const Type from =
      is_signed(type) ? (size == 2 ? Type::s16 : Type::s32) : (size == 2 ? Type::u16 : Type::u32);
  emit_lanes(in, lane_handlers().convert({wide == 8 ? Type::u64 : Type::u32, from}));
}

s32 Decoder::write_predicate(const Operand& operand) { return write(operand, Type::pred); }

std::vector<s32> Decoder::read_all(const Operand& operand, Type type) {
  std::vector<s32> offsets;
  if (operand.kind != Operand::Kind::list) return {read(operand, type)};
  for (const Operand& part : operand.parts) offsets.push_back(read(part, type));
  return offsets;
}

std::vector<s32> Decoder::write_all(const Operand& operand, Type type) {
  std::vector<s32> offsets;
  if (operand.kind != Operand::Kind::list) return {write(operand, type)};
  for (const Operand& part : operand.parts) offsets.push_back(write(part, type));
  return offsets;
}

u32 Decoder::list(const std::vector<s32>& offsets) {
  const u32 first = static_cast<u32>(program_.lists.size());
  program_.lists.insert(program_.lists.end(), offsets.begin(), offsets.end());
  return first;
}

Decoder::Address Decoder::address(const Operand& operand) {
  if (operand.kind != Operand::Kind::address) unsupported("operand that is no address");
  const Operand& base = operand.parts[0];
  Address a;
  a.offset = static_cast<s64>(operand.bits);
  if (base.kind == Operand::Kind::reg) {
    a.size = register_size(base);
    a.base = offset_of(base, a.size == 8 ? Type::b64 : Type::b32);
  } else if (base.kind == Operand::Kind::immediate) {
    a.offset += static_cast<s64>(base.bits);
  } else if (base.kind == Operand::Kind::variable) {
    const Space space = module_.syntax().variables[base.index].space;
    const auto param = kernel_params_.find(base.index);
    a.kernel_param = param != kernel_params_.end();
    a.local = space == Space::local || (space == Space::param && !a.kernel_param);
    a.offset += static_cast<s64>(a.kernel_param           ? param->second
                                 : space == Space::shared ? shared_offset(base.index)
                                 : a.local                ? local_offset(base.index)
                                                          : module_.address_of(base.index));
  } else {
    unsupported("address");
  }
  return a;
}

s32 Decoder::address_value(const Operand& operand, int size) {
  const Address a = address(operand);
  if (a.base == kNoRegister) return constant(static_cast<u64>(a.offset), size, a.kernel_param);
  const Type type = size == 8 ? Type::u64 : Type::u32;
  s32 value = a.base;
  if (a.size != size) {
    Instruction in;
    in.reg[0] = temporary(size);
    in.reg[1] = value;
    emit_lanes(in, lane_handlers().convert({type, a.size == 8 ? Type::u64 : Type::u32}));
    value = in.reg[0];
  }
  if (a.offset == 0) return value;
  Instruction in;
  in.reg[0] = temporary(size);
  in.reg[1] = value;
  in.reg[2] = constant(static_cast<u64>(a.offset), size);
  emit_lanes(in, lane_handlers().integer(Op::add, type));
  return in.reg[0];
}

u32 Decoder::shared_offset(int variable) {
  const auto [it, added] = shared_.try_emplace(variable, 0);
  const Variable& v = module_.syntax().variables[variable];
  if (!added) return it->second;
  if (v.external) {
    // Dynamic shared memory follows all static variables, whose extent is not known yet: a first
    // pass over the kernel has placed them (decode_kernel).
    it->second = static_cast<u32>(aligned(program_.shared_bytes, std::max(v.align, kSharedGap)));
    program_.shared_bytes = it->second;
    return it->second;
  }
  const u32 begin = program_.shared.empty() ? 0 : program_.shared_bytes + kSharedGap;
  it->second = static_cast<u32>(aligned(begin, std::max<u64>(v.align, kSharedGap)));
  program_.shared.push_back({v.name, it->second, static_cast<u32>(v.bytes)});
  program_.shared_bytes = it->second + static_cast<u32>(v.bytes);
  return it->second;
}

u64 Decoder::local_offset(int variable) {
  const auto [it, added] = local_.try_emplace(variable, 0);
  if (added) {
    const Variable& v = module_.syntax().variables[variable];
    it->second = aligned(program_.local_bytes, std::max<u64>(v.align, 8));
    program_.local_bytes = static_cast<u32>(it->second + v.bytes);
  }
  return it->second;
}

void Decoder::emit(Instruction instruction) {
  if (statement_->guard >= 0) {
    Operand guard;
    guard.kind = Operand::Kind::reg;
    guard.index = statement_->guard;
    instruction.guard = static_cast<u32>(offset_of(guard, Type::pred)) |
                        static_cast<u32>(statement_->guard_negated);
  } else {
    instruction.guard = kTruePredicate;
  }
  program_.code.push_back(instruction);
  program_.origins.push_back({statement_->line, statement_->source});
  program_.opcodes.push_back(statement_->opcode);
}

void Decoder::emit_lanes(Instruction instruction, Handler handler) {
  if (!handler) unsupported();
  instruction.run = handler;
  instruction.flow = Flow::pure;
  emit(instruction);
}

void Decoder::branch_to(const Operand& label) {
  if (label.kind != Operand::Kind::label) unsupported("branch target");
  Instruction branch;
  branch.flow = Flow::branch;
  branch.imm = label.index;
  branches_.push_back({static_cast<u32>(program_.code.size()), label.index});
  emit(branch);
}

void Decoder::unsupported(const std::string& why) const {
  throw Unsupported{why.empty() ? statement_->opcode : statement_->opcode + ": " + why};
}

void Decoder::decode(const Statement& statement) {
  statement_ = &statement;
  const size_t size = program_.code.size();
  const size_t branches = branches_.size(), calls = calls_.size();
  try {
    const DecodeFunction decode = find_decode_function(statement.parts[0]);
    if (!decode) unsupported();
    decode(*this, statement);
  } catch (const Unsupported& reason) {
    ++unsupported_[reason.what];
    program_.code.resize(size);
    program_.origins.resize(size);
    program_.opcodes.resize(size);
    branches_.resize(branches);
    calls_.resize(calls);
    Instruction trap;
    trap.flow = Flow::trap;
    emit(trap);
  }
}

void Decoder::place_params(const Function& function) {
  for (int index : function.params) {
    const Variable& v = module_.syntax().variables[index];
    const u32 offset = static_cast<u32>(aligned(program_.param_bytes, std::max<u32>(v.align, 1)));
    kernel_params_[index] = offset;
    program_.params.push_back({v.name, v.type, offset, static_cast<u32>(v.bytes)});
    program_.param_bytes = offset + static_cast<u32>(v.bytes);
  }
}

void Decoder::function(const Function& function) {
  function_ = &function;
  if (function.entry) place_params(function);
  registers_.assign(function.registers.size(), kNoRegister);
  branches_.clear();
  entry_points_[function.name] = static_cast<u32>(program_.code.size());
  std::vector<u32> begins;  // instruction of each statement
  for (const Statement& statement : function.body) {
    begins.push_back(static_cast<u32>(program_.code.size()));
    decode(statement);
  }
  Statement end;  // a body may end without ret
  end.opcode = "ret";
  end.line = function.body.empty() ? 0 : function.body.back().line;
  statement_ = &end;
  begins.push_back(static_cast<u32>(program_.code.size()));
  Instruction ret;
  ret.flow = Flow::ret;
  emit(ret);
  for (const Branch& branch : branches_)
    program_.code[branch.instruction].imm = begins[function.labels[branch.label]];
}

void Decoder::call(const Statement& statement) {
  const std::vector<Operand>& operands = statement.operands;
  const auto callee = std::find_if(operands.begin(), operands.end(), [](const Operand& o) {
    return o.kind == Operand::Kind::function;
  });
  if (callee == operands.end()) unsupported("indirect call");
  const auto& functions = module_.syntax().functions;
  const auto target = std::find_if(functions.begin(), functions.end(),
                                   [&](const Function& f) { return f.name == callee->text; });
  if (target == functions.end()) unsupported("function " + callee->text);
  const auto copy = [&](int from, int to) {
    Instruction in;
    in.imm = static_cast<s64>(local_offset(from));
    in.imm2 = static_cast<s64>(local_offset(to));
    in.list = static_cast<u32>(module_.syntax().variables[to].bytes);
    in.run = copy_local;
    emit(in);
  };
  const auto arguments =
      callee + 1 != operands.end() ? (callee + 1)->parts : std::vector<Operand>{};
  const auto results = callee != operands.begin() ? operands[0].parts : std::vector<Operand>{};
  if (arguments.size() != target->params.size() || results.size() != target->results.size())
    unsupported("number of arguments");
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].kind != Operand::Kind::variable) unsupported("argument");
    copy(arguments[i].index, target->params[i]);
  }
  calls_.push_back({static_cast<u32>(program_.code.size()), function_->name, callee->text});
  Instruction in;
  in.flow = Flow::call;
  emit(in);
  for (size_t i = 0; i < results.size(); ++i) copy(target->results[i], results[i].index);
}

void Decoder::finish() {
  // Each function is decoded once and has one frame of registers: there is no recursion.
  for (size_t i = 0; i < calls_.size(); ++i) {
    const auto& functions = module_.syntax().functions;
    const auto callee = std::find_if(functions.begin(), functions.end(), [&](const Function& f) {
      return f.name == calls_[i].function;
    });
    if (!entry_points_.contains(callee->name)) function(*callee);
    program_.code[calls_[i].instruction].imm = entry_points_[callee->name];
  }
  for (const Call& c : calls_)
    if (reaches(c.function, c.caller)) {
      program_.code[c.instruction].flow = Flow::trap;
      ++unsupported_["recursive call of " + c.function];
    }
}

bool Decoder::reaches(const std::string& from, const std::string& to) const {
  std::vector<std::string> open{from};
  std::set<std::string> seen;
  while (!open.empty()) {
    const std::string name = open.back();
    open.pop_back();
    if (name == to) return true;
    if (!seen.insert(name).second) continue;
    for (const Call& c : calls_)
      if (c.caller == name) open.push_back(c.function);
  }
  return false;
}

Program decode_kernel(const LoadedModule& module, const Function& kernel,
                      std::map<std::string, int>& unsupported) {
  Program program;
  program.name = kernel.name;
  program.module = &module.syntax();
  program.required_threads = kernel.required_threads;
  program.max_threads = kernel.max_threads;
  program.cluster = kernel.cluster;
  Decoder decoder(module, program, unsupported);
  // Static shared variables first, so that dynamic shared memory begins behind them.
  for (const Function& function : module.syntax().functions)
    if (&function == &kernel || !function.entry)
      for (const Statement& statement : function.body)
        for (const Operand& operand : statement.operands) {
          const Operand& o = operand.kind == Operand::Kind::address ? operand.parts[0] : operand;
          if (o.kind != Operand::Kind::variable) continue;
          const Variable& v = module.syntax().variables[o.index];
          if (v.space == Space::shared && !v.external) decoder.shared_offset(o.index);
        }
  decoder.function(kernel);
  decoder.finish();
  return program;
}

}  // namespace ptxsim
