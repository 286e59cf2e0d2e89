// cp.async: copies from global to shared memory that land when their thread waits for them.
//
// The hardware may read and write at any moment between the instruction and the wait. So the checks
// are made at both ends, the bytes are poison in between, and every access to them is reported.
#include <algorithm>
#include <cstring>

#include "ptxsim/access.h"
#include "ptxsim/launch.h"
#include "ptxsim/op_copy.h"
#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

// reg[0] + imm: to; reg[1] + imm2: from; reg[2]: bytes to read, the rest is zero; reg[3]: predicate
// under which nothing is read; width: bytes to write
void issue_copies(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  u64 to[kLanes] = {}, from[kLanes] = {};
  u32 reading = 0;
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    to[lane] = reg<u32>(w, in.reg[0])[lane] + static_cast<u32>(in.imm);
    from[lane] = reg<u64>(w, in.reg[1])[lane] + static_cast<u64>(in.imm2);
    u32 bytes = in.reg[2] == kNoRegister ? in.width : reg<u32>(w, in.reg[2])[lane];
    if (in.reg[3] != kNoRegister && predicate(w, in.reg[3]) >> lane & 1) bytes = 0;
    if (bytes > in.width) {
      w.block->launch().report(
          w, lane, "copy size",
          "a copy of " + std::to_string(in.width) + " bytes is to read " + std::to_string(bytes));
      bytes = in.width;
    }
    if (from[lane] % in.width != 0 && bytes)
      w.block->launch().report(w, lane, "misaligned",
                               "the source of a copy of " + std::to_string(in.width) + " bytes");
    PendingCopy copy{
        static_cast<u32>(to[lane]), from[lane],          in.width, static_cast<u8>(bytes),
        static_cast<u8>(lane),      w.copy_groups[lane], w.pc};
    if (bytes && !check_global_range(w, lane, copy.from, bytes, kRead, w.agent))
      copy.source_bytes = 0;
    reading |= static_cast<u32>(bytes > 0) << lane;
    u8* bytes_to = shared_access(w, lane, copy.to, in.width, kWrite);
    std::memset(bytes_to, 0xff, in.width);
    if (!mark_landing(*w.block, copy.to, in.width, true)) continue;
    w.copies.push_back(copy);
  }
  if (reading) count_addresses(w, from, reading, in.width, false);
  count_addresses(w, to, mask, in.width, true);
}

void commit_copies(Warp& warp, const Instruction&, u32 mask) {
  RunningWarp& w = running(warp);
  for (u32 m = mask; m; m &= m - 1) ++w.copy_groups[static_cast<size_t>(__builtin_ctz(m))];
}

// imm: groups that may stay under way; -1: not even what was never committed
void wait_copies(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  u32 landed[kLanes];  // copies of earlier groups have landed
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const s64 bound = static_cast<s64>(w.copy_groups[lane]) - in.imm;
    landed[lane] = mask >> lane & 1 ? static_cast<u32>(std::max<s64>(bound, 0)) : 0;
  }
  std::erase_if(w.copies, [&](const PendingCopy& copy) {
    if (copy.group >= landed[copy.lane]) return false;
    land_copy(w, copy);
    return true;
  });
}

}  // namespace

bool mark_landing(Block& block, u32 address, u32 bytes, bool landing) {
  Block* owner = owner_of(block, address);
  const u32 offset = offset_of(address);
  if (!owner || offset + bytes > owner->shared.size() || offset % bytes != 0) return false;
  GranuleState& state = owner->shared.state(offset);
  const u16 mask = static_cast<u16>(((1u << bytes) - 1) << (offset % kGranule));
  state.landing = static_cast<u16>(landing ? state.landing | mask : state.landing & ~mask);
  return true;
}

void land_copy(RunningWarp& w, const PendingCopy& copy) {
  const u32 pc = w.pc;
  w.pc = copy.pc;  // a finding here is about the copy
  if (copy.source_bytes)
    check_global_range(w, copy.lane, copy.from, copy.source_bytes, kRead, w.agent);
  mark_landing(*w.block, copy.to, copy.bytes, false);
  u8* to = shared_access(w, copy.lane, copy.to, copy.bytes, kWrite);
  std::memcpy(to, reinterpret_cast<const u8*>(copy.from), copy.source_bytes);
  std::memset(to + copy.source_bytes, 0, static_cast<size_t>(copy.bytes - copy.source_bytes));
  w.pc = pc;
}

void decode_cp(Decoder& d, const Statement& s) {
  if (s.has("bulk")) return decode_bulk(d, s);
  if (!s.has("async")) d.unsupported();
  if (s.parts[2] == "mbarrier") return decode_copy_arrival(d, s);
  Instruction in;
  if (s.has("commit_group")) {
    in.run = commit_copies;
    return d.emit(in);
  }
  if (s.has("wait_group") || s.has("wait_all")) {
    in.imm = s.has("wait_all") ? -1 : d.immediate(s.operands[0]);
    in.run = wait_copies;
    return d.emit(in);
  }
  const Decoder::Address to = d.address(s.operands[0]), from = d.address(s.operands[1]);
  if (to.size == 8) d.unsupported("64-bit shared address");
  in.reg[0] = to.base == kNoRegister ? d.constant(0, 4) : to.base;
  in.imm = to.offset;
  in.reg[1] = from.base == kNoRegister ? d.constant(0, 8) : from.base;
  in.imm2 = from.offset;
  in.width = static_cast<u8>(d.immediate(s.operands[2]));
  if (in.width != 4 && in.width != 8 && in.width != 16) d.unsupported("copy size");
  const size_t optional = s.operands.size() - (s.has("L2::cache_hint") ? 1 : 0);
  if (optional > 3) {
    const Operand& limit = s.operands[3];
    if (d.is_predicate(limit))
      in.reg[3] = d.read_predicate(limit);
    else
      in.reg[2] = d.read(limit, Type::b32);
  }
  in.run = issue_copies;
  d.emit(in);
}

}  // namespace ptxsim
