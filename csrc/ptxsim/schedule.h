// Runs the warps of a cluster until they are done, stuck, or have had their turn.
#pragma once

#include "ptxsim/block.h"

namespace ptxsim {

enum class Progress : u8 { finished, more, stuck };

// About `budget` instructions of all warps together.
Progress run_cluster(Cluster& cluster, u64 budget);

// Up to `budget` instructions of one warp (schedule_warp.cpp); false if it could not go on.
bool run_warp(RunningWarp& warp, u64 budget);

}  // namespace ptxsim
