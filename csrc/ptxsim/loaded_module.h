// A module that is ready to run: parsed, its variables placed in memory, its kernels decoded.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptxsim/program.h"

namespace ptxsim {

class LoadedModule {
 public:
  // Throws std::runtime_error when the text cannot be parsed. Opcodes that are not understood are
  // listed in unsupported() and trap when they are executed.
  explicit LoadedModule(const std::string& text);

  const Module& syntax() const { return syntax_; }
  // By its name; null when there is none.
  const Program* find(const std::string& kernel) const;
  std::vector<std::string> kernels() const;
  // Opcode or reason -> number of statements.
  const std::map<std::string, int>& unsupported() const { return unsupported_; }

  // Host address of a variable of the global or constant space.
  u64 address_of(int variable) const { return addresses_[variable]; }
  struct Storage {
    std::string name;
    std::unique_ptr<u8[]> bytes;
    u64 address, size;  // within bytes, aligned
    bool writable;
  };
  const std::vector<Storage>& storage() const { return storage_; }

 private:
  void place_variables();

  Module syntax_;
  std::vector<u64> addresses_;
  std::vector<Storage> storage_;
  std::map<std::string, Program> programs_;
  std::map<std::string, int> unsupported_;
};

}  // namespace ptxsim
