#include "ptxsim/loaded_module.h"

#include <cstring>

#include "ptxsim/decoder.h"
#include "ptxsim/parse.h"

namespace ptxsim {

LoadedModule::LoadedModule(const std::string& text) : syntax_(parse_module(text)) {
  place_variables();
  for (const Function& function : syntax_.functions)
    if (function.entry)
      programs_.emplace(function.name, decode_kernel(*this, function, unsupported_));
}

void LoadedModule::place_variables() {
  addresses_.resize(syntax_.variables.size());
  constexpr u64 kAlign = 256;
  for (size_t i = 0; i < syntax_.variables.size(); ++i) {
    const Variable& v = syntax_.variables[i];
    if (v.space != Space::global && v.space != Space::constant) continue;
    Storage storage{v.name, std::make_unique<u8[]>(v.bytes + kAlign), 0, v.bytes,
                    v.space == Space::global};
    storage.address = (reinterpret_cast<u64>(storage.bytes.get()) + kAlign - 1) / kAlign * kAlign;
    addresses_[i] = storage.address;
    std::memcpy(reinterpret_cast<void*>(addresses_[i]), v.data.data(), v.data.size());
    storage_.push_back(std::move(storage));
  }
  for (size_t i = 0; i < syntax_.variables.size(); ++i)
    for (const Variable::Address& a : syntax_.variables[i].addresses) {
      const auto target = syntax_.variable_of.find(a.symbol);
      if (target == syntax_.variable_of.end() || !addresses_[i]) continue;
      const u64 value = addresses_[target->second] + static_cast<u64>(a.offset);
      std::memcpy(reinterpret_cast<void*>(addresses_[i] + a.at), &value, sizeof value);
    }
}

const Program* LoadedModule::find(const std::string& kernel) const {
  const auto it = programs_.find(kernel);
  return it == programs_.end() ? nullptr : &it->second;
}

std::vector<std::string> LoadedModule::kernels() const {
  std::vector<std::string> names;
  for (const auto& [name, program] : programs_) names.push_back(name);
  return names;
}

}  // namespace ptxsim
