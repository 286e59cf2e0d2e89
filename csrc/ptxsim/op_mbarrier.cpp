// mbarrier objects: phases of arrivals and transferred bytes.
#include <algorithm>

#include "ptxsim/access.h"
#include "ptxsim/async.h"
#include "ptxsim/launch.h"
#include "ptxsim/op_copy.h"
#include "ptxsim/opcodes.h"
#include "ptxsim/synchronise.h"

namespace ptxsim {
namespace {

constexpr s32 kMostArrivals = (1 << 20) - 1;
constexpr s64 kMostTransactions = (1 << 20) - 1;
constexpr u32 kBytes = 8;
constexpr Intent kInspect{false, true, true}, kUpdate{true, true, true};

enum Flags : u8 {
  kExpects = 1,    // arrive.expect_tx
  kDrops = 2,      // arrive_drop
  kRelaxed = 4,    // no order
  kParity = 8,     // a wait by parity, not by the token of an arrival
  kBlocks = 16,    // try_wait
  kCounts = 32,    // an operand says how many arrivals
  kNoArrival = 64  // expect_tx, complete_tx
};

u32 address_of(Warp& w, const Instruction& in, int lane) {
  if (in.width == 4) return reg<u32>(w, in.reg[1])[lane];
  const u64 address = reg<u64>(w, in.reg[1])[lane];
  return static_cast<u32>(address >= shared_window() ? address - shared_window() : address);
}

void advance(Cluster& cluster, MemoryBarrier& b) {
  if (b.pending > 0 || b.transactions != 0) return;
  ++b.phase;
  b.pending = b.count;
  if (!b.clock.agents.empty()) {
    if (b.done.agents.empty())
      b.done = b.clock;
    else
      b.done.join(b.clock);
    b.clock.reset(b.clock.agents.size());
  }
  cluster.woke = true;
}

void arrive(RunningWarp& w, u32 lane, MemoryBarrier& b, s64 count) {
  if (count < 1 || count > b.pending) {
    w.block->launch().report(w, lane, "barrier arrivals",
                             std::to_string(count) + " arrivals at an mbarrier that expects " +
                                 std::to_string(b.pending) + " more in this phase");
    count = std::min<s64>(std::max<s64>(count, 0), b.pending);
  }
  b.pending -= static_cast<s32>(count);
}

void expect(RunningWarp& w, u32 lane, MemoryBarrier& b, s64 bytes) {
  b.transactions += bytes;
  if (std::abs(b.transactions) > kMostTransactions)
    w.block->launch().report(w, lane, "barrier arrivals",
                             "more than 2^20 - 1 bytes are expected at an mbarrier");
}

// reg[1] address, reg[2] count
void init(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u32 address = address_of(w, in, lane), l = static_cast<u32>(lane);
    const auto count = static_cast<s32>(reg<u32>(w, in.reg[2])[lane]);
    shared_access(w, l, address, kBytes, kWrite);
    if (count < 1 || count > kMostArrivals)
      w.block->launch().report(w, l, "barrier arrivals",
                               "an mbarrier for " + std::to_string(count) + " arrivals");
    if (Block* owner = owner_of(*w.block, address)) {
      MemoryBarrier fresh;
      fresh.count = fresh.pending = count;
      owner->memory_barriers[offset_of(address)] = std::move(fresh);
    }
  }
}

void invalidate(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u32 address = address_of(w, in, lane);
    shared_access(w, static_cast<u32>(lane), address, kBytes, kWrite);
    if (Block* owner = owner_of(*w.block, address))
      owner->memory_barriers.erase(offset_of(address));
  }
}

// reg[0] token or none, reg[1] address, reg[2] bytes or count
void arrive_lanes(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  Cluster& cluster = *w.block->cluster;
  u32 left = mask;
  while (left) {  // lanes at the same barrier release together
    const u32 address = address_of(w, in, __builtin_ctz(left));
    u32 together = 0;
    for (u32 m = left; m; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      if (address_of(w, in, lane) == address) together |= 1u << lane;
    }
    left &= ~together;
    const u32 first = static_cast<u32>(__builtin_ctz(together));
    shared_access(w, first, address, kBytes, kUpdate);
    MemoryBarrier* b = find_memory_barrier(w, first, address);
    if (!b) continue;
    if (!(in.variant & (kRelaxed | kNoArrival))) release(w, together, b->clock);
    for (u32 m = together; m; m &= m - 1) {
      const u32 lane = static_cast<u32>(__builtin_ctz(m));
      const u32 operand = in.reg[2] == kNoRegister ? 1 : reg<u32>(w, in.reg[2])[lane];
      if (in.reg[0] != kNoRegister) reg<u64>(w, in.reg[0])[lane] = b->phase;
      if (in.variant & kExpects) expect(w, lane, *b, operand);
      if (in.variant & kDrops) b->count -= static_cast<s32>(in.variant & kCounts ? operand : 1);
      if (!(in.variant & kNoArrival)) arrive(w, lane, *b, in.variant & kCounts ? operand : 1);
      if (b->pending == 0) advance(cluster, *b);
    }
  }
  w.yields = cluster.random.below(4) == 0;
}

void complete_lanes(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    MemoryBarrier* b = find_memory_barrier(w, lane, address_of(w, in, static_cast<int>(lane)));
    if (!b) continue;
    b->transactions -= reg<u32>(w, in.reg[2])[lane];
    advance(*w.block->cluster, *b);
  }
}

// reg[0] predicate, reg[1] address, reg[2] parity or token
void wait_lanes(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  Cluster& cluster = *w.block->cluster;
  u32 done = 0, unknown = 0;
  const MemoryBarrier* last = nullptr;
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u32 address = address_of(w, in, lane), l = static_cast<u32>(lane);
    if (l == static_cast<u32>(__builtin_ctz(mask))) shared_access(w, l, address, kBytes, kInspect);
    const MemoryBarrier* b = find_memory_barrier(w, l, address);
    if (!b) {
      unknown |= 1u << lane;
      continue;
    }
    bool complete;
    if (in.variant & kParity) {
      complete = (b->phase & 1) != (reg<u32>(w, in.reg[2])[lane] & 1);
    } else {
      const u64 token = reg<u64>(w, in.reg[2])[lane];
      complete = token != b->phase;
      if (token > b->phase || token + 1 < b->phase)
        w.block->launch().report(w, l, "barrier phase",
                                 "waits with the token of phase " + std::to_string(token) +
                                     ", the mbarrier is in phase " + std::to_string(b->phase));
    }
    if (!complete) continue;
    done |= 1u << lane;
    if (b != last && !(in.variant & kRelaxed) && !b->done.agents.empty()) acquire(w, b->done);
    last = b;
  }
  done |= unknown;
  // try_wait suspends its thread, but not for ever: now and then it comes back with nothing.
  const u32 open = mask & ~done;
  const bool blocks =
      in.variant & kBlocks &&
      !(cluster.launch->options.schedule == Schedule::random && cluster.random.below(8) == 0);
  if (open && blocks) w.blocked = open;
  if (open && !blocks) w.yields = true;
  const u32 answered = mask & ~w.blocked;
  u32& p = predicate(w, in.reg[0]);
  p = (p & ~answered) | (done & answered);
}

// The arrival follows the copies of the thread. variant: kCounts: .noinc
void arrive_after_copies(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    const u32 address = address_of(w, in, static_cast<int>(lane));
    MemoryBarrier* b = find_memory_barrier(w, lane, address);
    if (!b) continue;
    if (!(in.variant & kCounts)) ++b->pending;
    std::vector<PendingCopy> copies;
    std::erase_if(w.copies, [&](const PendingCopy& copy) {
      if (copy.lane != lane) return false;
      copies.push_back(copy);
      return true;
    });
    RunningWarp* issuer = &w;
    enqueue(w, lane, AsyncOperation::kNoGroup, [issuer, lane, address, copies] {
      for (const PendingCopy& copy : copies) land_copy(*issuer, copy);
      MemoryBarrier* barrier = find_memory_barrier(*issuer, lane, address);
      if (!barrier) return;
      release(*issuer, 1u << lane, barrier->clock);
      arrive(*issuer, lane, *barrier, 1);
      advance(*issuer->block->cluster, *barrier);
    });
  }
}

void take_address(Decoder& d, const Operand& operand, Instruction& in) {
  const Decoder::Address a = d.address(operand);
  in.width = a.base != kNoRegister && a.size == 8 ? 8 : 4;
  in.reg[1] = d.address_value(operand, in.width);
}

}  // namespace

MemoryBarrier* find_memory_barrier(RunningWarp& w, u32 lane, u32 address) {
  Block* owner = owner_of(*w.block, address);
  if (owner) {
    const auto it = owner->memory_barriers.find(offset_of(address));
    if (it != owner->memory_barriers.end()) return &it->second;
  }
  w.block->launch().report(
      w, lane, "no barrier",
      "shared memory at " + std::to_string(address) + " holds no mbarrier that was initialised");
  return nullptr;
}

void complete_transactions(Cluster& cluster, MemoryBarrier& b, s64 bytes, const Clock& known,
                           u32 agent) {
  if (b.clock.agents.empty()) b.clock.reset(known.agents.size());
  b.clock.join(known);
  b.clock.agents[agent].all = std::max(b.clock.agents[agent].all, cluster.time);
  ++cluster.time;
  b.transactions -= bytes;
  advance(cluster, b);
}

void decode_mbarrier(Decoder& d, const Statement& s) {
  const std::string& what = s.parts[1];
  Instruction in;
  if (s.has("relaxed")) in.variant |= kRelaxed;
  if (what == "init" || what == "inval") {
    take_address(d, s.operands[0], in);
    if (what == "init") in.reg[2] = d.read(s.operands[1], Type::b32);
    in.run = what == "init" ? init : invalidate;
    return d.emit(in);
  }
  if (what == "expect_tx" || what == "complete_tx") {
    take_address(d, s.operands[0], in);
    in.reg[2] = d.read(s.operands[1], Type::b32);
    in.variant |= kExpects | kNoArrival;
    in.run = what == "expect_tx" ? arrive_lanes : complete_lanes;
    return d.emit(in);
  }
  if (what == "arrive" || what == "arrive_drop") {
    const bool token = s.operands[0].kind != Operand::Kind::address;
    const size_t first = token ? 1 : 0;
    if (token) in.reg[0] = d.write(s.operands[0], Type::b64);
    take_address(d, s.operands[first], in);
    if (s.operands.size() > first + 1) in.reg[2] = d.read(s.operands[first + 1], Type::b32);
    if (what == "arrive_drop") in.variant |= kDrops;
    if (s.has("expect_tx"))
      in.variant |= kExpects;
    else if (in.reg[2] != kNoRegister)
      in.variant |= kCounts;
    in.run = arrive_lanes;
    return d.emit(in);
  }
  if (what == "test_wait" || what == "try_wait") {
    in.flow = Flow::wait;
    in.reg[0] = d.write_predicate(s.operands[0]);
    take_address(d, s.operands[1], in);
    if (s.has("parity")) in.variant |= kParity;
    if (what == "try_wait") in.variant |= kBlocks;
    in.reg[2] = d.read(s.operands[2], s.has("parity") ? Type::b32 : Type::b64);
    in.run = wait_lanes;
    return d.emit(in);
  }
  d.unsupported();
}

void decode_copy_arrival(Decoder& d, const Statement& s) {
  Instruction in;
  take_address(d, s.operands[0], in);
  if (s.has("noinc")) in.variant = kCounts;
  in.run = arrive_after_copies;
  d.emit(in);
}

}  // namespace ptxsim
