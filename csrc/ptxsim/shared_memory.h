// The shared memory of one block, with what is known about each of its bytes.
#pragma once

#include <memory>
#include <vector>

#include "ptxsim/program.h"
#include "ptxsim/shadow.h"

namespace ptxsim {

// Masks over the 16 bytes of a granule.
struct GranuleState {
  u16 valid = 0;        // belongs to a variable or to dynamic shared memory
  u16 initialised = 0;  // has been written
  u16 landing = 0;      // an asynchronous copy into it is under way
  u16 unused = 0;
};

class SharedMemory {
 public:
  void resize(const Program& program, u32 dynamic_bytes);
  void reset(bool races);  // before a block starts: nothing is written, nobody has been here

  u32 size() const { return size_; }
  u8* data() { return bytes_; }
  GranuleState& state(u32 offset) { return states_[offset / kGranule]; }
  ShadowLine& line(u32 offset) { return lines_[offset / kGranule]; }

 private:
  u32 size_ = 0;
  std::unique_ptr<u8[]> storage_;
  u8* bytes_ = nullptr;  // in storage_
  std::vector<GranuleState> states_, initial_states_;
  std::unique_ptr<ShadowLine[]> lines_;
};

}  // namespace ptxsim
