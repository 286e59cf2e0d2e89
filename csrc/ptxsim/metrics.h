// What a launch did, counted without a clock.
#pragma once

#include <cstddef>
#include <vector>

#include "ptxsim/types.h"

namespace ptxsim {

struct Executions {
  u64 warps = 0;  // times a warp executed the instruction
  u64 lanes = 0;  // ... and lanes that took part
};

// Of an instruction that accesses memory.
struct Requests {
  u64 requests = 0;    // memory requests
  u64 wavefronts = 0;  // shared memory: passes over the banks; 1 per request without conflicts
  u64 ideal = 0;       // ... and the fewest the data volume allows
  u64 sectors = 0;     // global memory: 32-byte sectors touched
  u64 bytes = 0;       // that the lanes asked for

  void add(const Requests& other) {
    requests += other.requests;
    wavefronts += other.wavefronts;
    ideal += other.ideal;
    sectors += other.sectors;
    bytes += other.bytes;
  }
};

struct Metrics {  // by position in Program::code
  std::vector<Executions> executions;
  std::vector<Requests> requests;

  void resize(std::size_t instructions) {
    executions.resize(instructions);
    requests.resize(instructions);
  }
  void add(const Metrics& other) {
    resize(other.executions.size());
    for (std::size_t i = 0; i < executions.size(); ++i) {
      executions[i].warps += other.executions[i].warps;
      executions[i].lanes += other.executions[i].lanes;
      requests[i].add(other.requests[i]);
    }
  }
};

}  // namespace ptxsim
