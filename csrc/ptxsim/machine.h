// What an instruction handler sees: a decoded instruction and the register file of a warp. Only
// plain data, because the lane handlers are compiled once per instruction-set level.
//
// A register is an array of 32 lanes at a byte offset of the warp's register file: 2, 4, 8 or 16
// bytes a lane. A predicate is one 32-bit word, a bit per lane. Immediates and special registers
// are registers too, filled in before the block starts, so every operand is base + offset.
#pragma once

#include "ptxsim/types.h"

namespace ptxsim {

struct Warp;
struct Instruction;

// Runs `instruction` for the lanes of `mask`, which is never empty.
using Handler = void (*)(Warp& warp, const Instruction& instruction, u32 mask);

// What the scheduler does about an instruction beside calling its handler.
enum class Flow : u8 {
  pure,       // nothing: the handler only computes on registers
  effect,     // nothing, but the handler may report, or ask to yield
  branch,     // to imm
  call,       // to imm
  ret,        //
  exit,       //
  warp_sync,  // waits until the lanes of the member mask in reg[kMembers] are here
  barrier,    // bar.sync and its kin
  wait,       // the handler says whether the lanes may pass (Warp::blocked)
  trap,       // an instruction that was not understood, or trap itself
};

inline constexpr int kOperands = 6;
inline constexpr int kMembers = 5;  // operand that holds the member mask of a .sync instruction
inline constexpr s32 kNoRegister = -1;

struct Instruction {
  Handler run = nullptr;
  s32 reg[kOperands] = {kNoRegister, kNoRegister, kNoRegister,
                        kNoRegister, kNoRegister, kNoRegister};  // the destination first
  s64 imm = 0, imm2 = 0;
  u32 list = 0;   // first of list_size register offsets in Warp::lists
  u32 guard = 0;  // offset of the guard predicate; its lowest bit: negated
  u8 list_size = 0;
  Flow flow = Flow::effect;
  u8 variant = 0;
  u8 width = 0;  // bytes of a memory access per lane
};

struct Warp {
  u8* registers = nullptr;
  const s32* lists = nullptr;
  u32 live = 0;            // lanes that have not exited
  u32 blocked = 0;         // set by the handler of a Flow::wait instruction
  u32 carry[kLanes] = {};  // the condition code of add.cc
};

template <class T>
T* reg(Warp& warp, s32 offset) {
  return reinterpret_cast<T*>(warp.registers + offset);
}

inline u32& predicate(Warp& warp, s32 offset) { return *reg<u32>(warp, offset); }

}  // namespace ptxsim
