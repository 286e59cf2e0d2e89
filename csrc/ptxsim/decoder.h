// From statements to instructions. The decode_*.cpp files hold one function per opcode root, built
// from the steps of Decoder.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptxsim/loaded_module.h"
#include "ptxsim/operations.h"

namespace ptxsim {

// Thrown by a decode function; the statement becomes a trap.
struct Unsupported {
  std::string what;
};

// Handler for passing an argument or a result of a call: imm, imm2: from, to in local memory;
// list: bytes.
void copy_local(Warp& w, const Instruction& in, u32 mask);

Program decode_kernel(const LoadedModule& module, const Function& kernel,
                      std::map<std::string, int>& unsupported);

class Decoder {
 public:
  Decoder(const LoadedModule& module, Program& program, std::map<std::string, int>& unsupported);

  void function(const Function& function);  // decodes the body and the functions it calls
  void finish();                            // resolves branches and calls

  // --- Steps for decode functions ---
  // Register-file offset of an operand that is read. An integer immediate becomes a constant of the
  // type's size; a register must have that size.
  s32 read(const Operand& operand, Type type);
  s32 write(const Operand& operand, Type type);  // kNoRegister for the sink _
  // As read and write, for cvt, whose registers may be wider than its types: the value passes
  // through a temporary, which widen_written() copies to its destination.
  s32 read_narrow(const Operand& operand, Type type);
  s32 write_narrow(const Operand& operand, Type type);
  void widen_written(const Operand& operand, Type type);
  s32 read_predicate(const Operand& operand);  // a negated one goes through a temporary
  s32 write_predicate(const Operand& operand);
  s32 constant(u64 bits, int size, bool param = false);
  s32 temporary(int size);                          // size 0: a predicate
  int register_size(const Operand& operand) const;  // bytes per lane; 0: not a register
  bool is_predicate(const Operand& operand) const;
  s64 immediate(const Operand& operand) const;

  // [base + offset] -> register and offset. A base that is a constant is kNoRegister.
  struct Address {
    s32 base = kNoRegister;
    s64 offset = 0;
    int size = 0;               // bytes of the base register
    bool kernel_param = false;  // offset is into the parameter buffer
    bool local = false;         // a parameter of a call, which lives in local memory
  };
  Address address(const Operand& operand);

  // The whole address in a register of `size` bytes a lane.
  s32 address_value(const Operand& operand, int size);

  u32 list(const std::vector<s32>& offsets);
  std::vector<s32> read_all(const Operand& operand, Type type);  // {a, b} or a single operand
  std::vector<s32> write_all(const Operand& operand, Type type);

  // Appends an instruction under the statement's guard.
  void emit(Instruction instruction);
  void emit_lanes(Instruction instruction, Handler handler);  // a null handler: not supported
  void branch_to(const Operand& label);                       // emits it
  void call(const Statement& statement);
  [[noreturn]] void unsupported(const std::string& why = "") const;

  const Statement& statement() const { return *statement_; }
  const LoadedModule& module() const { return module_; }
  u32 shared_offset(int variable);
  u64 local_offset(int variable);

 private:
  void place_params(const Function& function);
  void decode(const Statement& statement);
  s32 special(const std::string& name);
  s32 allocate(int bytes);
  s32 offset_of(const Operand& operand, Type type);

  const LoadedModule& module_;
  Program& program_;
  std::map<std::string, int>& unsupported_;
  const Function* function_ = nullptr;
  const Statement* statement_ = nullptr;
  std::vector<s32> registers_;  // of the function in hand; kNoRegister: not used yet
  s32 narrow_ = kNoRegister;
  std::vector<s32> predicate_pool_;
  std::map<std::pair<int, u64>, s32> constants_;
  std::map<std::pair<int, u64>, s32> param_constants_;
  std::map<Special, s32> specials_;
  std::map<int, u32> shared_;
  std::map<int, u64> local_;
  std::map<int, u32> kernel_params_;  // variable -> offset in the parameter buffer
  std::map<std::string, u32> entry_points_;
  struct Branch {
    u32 instruction;
    int label;
  };
  std::vector<Branch> branches_;
  struct Call {
    u32 instruction;
    std::string caller, function;
  };
  bool reaches(const std::string& from, const std::string& to) const;  // by calls
  std::vector<Call> calls_;
};

using DecodeFunction = void (*)(Decoder& decoder, const Statement& statement);

// By the first part of an opcode; null when there is none.
DecodeFunction find_decode_function(std::string_view root);

}  // namespace ptxsim
