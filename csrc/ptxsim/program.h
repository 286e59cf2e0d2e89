// A kernel, decoded: what a launch runs.
#pragma once

#include <string>
#include <vector>

#include "ptxsim/machine.h"
#include "ptxsim/syntax.h"

namespace ptxsim {

// Registers whose value the machine provides.
enum class Special : u8 {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  laneid,
  warpid,
  nwarpid,
  smid,
  nsmid,
  lanemask_eq,
  lanemask_le,
  lanemask_lt,
  lanemask_ge,
  lanemask_gt,
  cluster_ctaid_x,
  cluster_ctaid_y,
  cluster_ctaid_z,
  cluster_nctaid_x,
  cluster_nctaid_y,
  cluster_nctaid_z,
  clusterid_x,
  clusterid_y,
  clusterid_z,
  nclusterid_x,
  nclusterid_y,
  nclusterid_z,
  cluster_ctarank,
  cluster_nctarank,
  dynamic_smem_size,
  total_smem_size,
};

struct Constant {
  s32 offset;
  int size;  // bytes per lane
  u64 bits;
  bool param = false;  // relative to the launch's parameter buffer
};

struct SpecialRegister {
  s32 offset;
  Special which;
};

struct Param {
  std::string name;
  Type type;
  u32 offset, bytes;
};

// Where an instruction comes from.
struct Origin {
  int line = 0;  // of the PTX text
  SourceLine source;
};

struct Program {
  std::string name;
  const Module* module = nullptr;
  std::vector<Instruction> code;
  std::vector<Origin> origins;       // one per instruction
  std::vector<std::string> opcodes;  // one per instruction, full spelling
  std::vector<s32> lists;
  std::vector<Constant> constants;
  std::vector<SpecialRegister> specials;
  std::vector<Param> params;
  u32 register_bytes = 0;  // per warp
  u32 param_bytes = 0;
  u32 local_bytes = 0;  // per thread
  Dim3 required_threads{0, 0, 0}, max_threads{0, 0, 0}, cluster{0, 0, 0};

  // Static shared memory: the variables the kernel names, apart from each other so that an access
  // past the end of one is seen.
  struct SharedVariable {
    std::string name;
    u32 offset, bytes;
  };
  std::vector<SharedVariable> shared;
  u32 shared_bytes = 0;  // where dynamic shared memory begins
};

}  // namespace ptxsim
