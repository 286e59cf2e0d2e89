#include "ptxsim/shared_memory.h"

#include <algorithm>
#include <cstring>

namespace ptxsim {
namespace {

constexpr u32 kAlign = 1024;  // as the hardware's, for the patterns of swizzles

}  // namespace

void SharedMemory::resize(const Program& program, u32 dynamic_bytes) {
  size_ = program.shared_bytes + dynamic_bytes;
  storage_ = std::make_unique<u8[]>(size_ + 2 * kAlign);
  bytes_ = storage_.get() + (kAlign - reinterpret_cast<u64>(storage_.get()) % kAlign);
  const u32 granules = size_ / kGranule + 1;
  initial_states_.assign(granules, GranuleState{});
  const auto allow = [&](u32 begin, u32 bytes) {
    for (u32 i = begin; i < begin + bytes; ++i)
      initial_states_[i / kGranule].valid |= static_cast<u16>(1u << (i % kGranule));
  };
  for (const Program::SharedVariable& v : program.shared) allow(v.offset, v.bytes);
  allow(program.shared_bytes, dynamic_bytes);
  states_ = initial_states_;
  lines_ = std::make_unique<ShadowLine[]>(granules);
}

void SharedMemory::reset(bool races) {
  states_ = initial_states_;
  if (races) std::memset(static_cast<void*>(lines_.get()), 0, states_.size() * sizeof(ShadowLine));
  std::memset(bytes_, 0xff, size_);  // a NaN in every format
}

}  // namespace ptxsim
