// Steps of cp.async that others need.
#pragma once

#include "ptxsim/op_memory.h"

namespace ptxsim {

// Sets or clears the mark "a copy into these bytes is under way". False if there is no such memory.
bool mark_landing(Block& block, u32 address, u32 bytes, bool landing);

// The copy takes place now.
void land_copy(RunningWarp& w, const PendingCopy& copy);

}  // namespace ptxsim
