// A PTX module as it is written: what the parser produces and the decoder reads. Names are
// resolved, so a register is a number and braces have disappeared.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ptxsim/types.h"

namespace ptxsim {

struct Operand {
  enum class Kind : u8 {
    reg,        // index: into Function::registers
    special,    // text: "%tid.x"
    immediate,  // bits
    variable,   // index: into Module::variables; bits: offset
    label,      // index: into Function::labels
    function,   // text
    address,    // parts[0]: base, bits: offset; parts[1..]: what follows inside the brackets
    list,       // parts: {a, b} or (a, b)
    pair,       // parts: p|q
    sink,       // _
  };
  Kind kind = Kind::sink;
  bool negated = false;   // !p
  bool floating = false;  // an immediate written 0f.. or 0d..
  int index = -1;
  u64 bits = 0;
  std::string text;
  std::vector<Operand> parts;
};

struct SourceLine {
  int file = 0, line = 0;
  int caller_file = 0, caller_line = 0;  // where the function that holds the line was inlined
};

struct Statement {
  int line = 0;  // of the PTX text, from 1
  SourceLine source;
  int guard = -1;  // register index of @p
  bool guard_negated = false;
  std::string opcode;              // "ld.global.v4.f32"
  std::vector<std::string> parts;  // its dot-separated parts; "shared::cluster" is one
  std::vector<Operand> operands;

  bool has(std::string_view part) const {
    for (const std::string& p : parts)
      if (p == part) return true;
    return false;
  }
};

struct Register {
  std::string name;
  Type type = Type::none;
};

struct Variable {
  std::string name;
  Space space = Space::global;
  Type type = Type::none;
  u64 bytes = 0;  // 0: an array without a size (dynamic shared memory)
  u32 align = 1;
  bool external = false;
  std::vector<u8> data;  // initial value; shorter than bytes: zeros follow
  struct Address {
    u64 at = 0;
    std::string symbol;
    s64 offset = 0;
  };
  std::vector<Address> addresses;  // addresses of other variables inside the initial value
};

struct Function {
  std::string name;
  bool entry = false;
  std::vector<int> params, results;  // indices into Module::variables
  std::vector<Register> registers;
  std::vector<int> labels;  // statement index of each label
  std::vector<Statement> body;
  Dim3 required_threads{0, 0, 0}, max_threads{0, 0, 0}, cluster{0, 0, 0};
};

struct Module {
  std::vector<std::string> lines;  // the PTX text
  std::map<int, std::string> files;
  std::string target;
  std::vector<Variable> variables;
  std::map<std::string, int> variable_of;  // module scope only
  std::vector<Function> functions;
};

}  // namespace ptxsim
