// Execution of one warp: its lanes fall into groups by program counter (independent thread
// scheduling); a group runs until it waits, splits, or meets another one.
#include "ptxsim/launch.h"
#include "ptxsim/schedule.h"
#include "ptxsim/synchronise.h"

namespace ptxsim {
namespace {

constexpr u32 kNoStop = ~0u;
constexpr u64 kFairness = 4096;  // instructions after which another group gets its chance

class WarpRun {
 public:
  WarpRun(RunningWarp& warp, u64 budget)
      : w_(warp),
        cluster_(*warp.block->cluster),
        launch_(warp.block->launch()),
        code_(launch_.program.code.data()),
        executions_(cluster_.metrics->executions.data()),
        budget_(budget) {}

  bool run() {
    bool progress = false;
    while (budget_ > 0 && !cluster_.killed) {
      merge();
      const int chosen = choose();
      if (chosen < 0) return progress;
      progress = true;
      run_group(static_cast<size_t>(chosen));
      if (w_.yields) {
        w_.yields = false;
        return true;
      }
    }
    return progress;
  }

 private:
  bool random() const { return launch_.options.schedule == Schedule::random; }

  // Ready groups at the same instruction become one.
  void merge() {
    std::vector<Group>& groups = w_.groups;
    for (size_t i = 0; i < groups.size(); ++i)
      for (size_t j = i + 1; j < groups.size();) {
        const Group &a = groups[i], &b = groups[j];
        if (a.state == Group::State::ready && b.state == Group::State::ready && a.pc == b.pc &&
            a.returns == b.returns) {
          groups[i].mask |= groups[j].mask;
          groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(j));
        } else {
          ++j;
        }
      }
  }

  // The lowest program counter first, so that the lanes behind catch up; at random now and then,
  // so that nobody waits for ever for a group that polls.
  int choose() {
    const std::vector<Group>& groups = w_.groups;
    const bool any = random() || ++turns_ % 16 == 0;
    int chosen = -1;
    u32 ready = 0;
    for (size_t i = 0; i < groups.size(); ++i) {
      if (groups[i].state != Group::State::ready) continue;
      ++ready;
      const bool better =
          chosen < 0 || (any ? cluster_.random.below(ready) == 0
                             : groups[i].pc < groups[static_cast<size_t>(chosen)].pc);
      if (better) chosen = static_cast<int>(i);
    }
    return chosen;
  }

  u32 next_other(size_t current) const {
    u32 stop = kNoStop;
    for (size_t i = 0; i < w_.groups.size(); ++i)
      if (i != current && w_.groups[i].state == Group::State::ready && w_.groups[i].pc < stop)
        stop = w_.groups[i].pc;
    return stop;
  }

  u32 lanes_of(const Instruction& in, u32 active) const {
    const u32 holds = predicate(w_, static_cast<s32>(in.guard & ~1u)) ^ (0u - (in.guard & 1));
    return active & holds;
  }

  // Instructions without effect but on registers, up to one that is more, to `stop`, or `left` of
  // them. This is where the time goes.
  u32 run_pure(u32 pc, u32 active, u32 stop, u64& left) {
    const Instruction* const code = code_;
    Executions* const executions = executions_;
    RunningWarp& w = w_;
    u64 remaining = left;
    while (remaining > 0) {
      const Instruction& in = code[pc];
      if (in.flow != Flow::pure) break;
      const u32 mask = lanes_of(in, active);
      ++executions[pc].warps;
      executions[pc].lanes += static_cast<u32>(__builtin_popcount(mask));
      if (mask) in.run(w, in, mask);
      --remaining;
      if (++pc >= stop) break;
    }
    left = remaining;
    return pc;
  }

  // The same while wgmma is under way: one at a time, and none may touch its registers.
  u32 run_watched(u32 pc, u32 active, u32 stop, u64& left) {
    while (left > 0 && code_[pc].flow == Flow::pure) {
      u64 one = 1;
      check_in_flight(code_[pc], pc, lanes_of(code_[pc], active));
      pc = run_pure(pc, active, stop, one);
      --left;
      if (pc >= stop) break;
    }
    return pc;
  }

  // Copies from register to register are left to the assembler, which removes them.
  void check_in_flight(const Instruction& in, u32 pc, u32 mask) {
    if (mask == 0) return;
    u8 found = 0;
    const auto look = [&](s32 offset, u8 uses, bool touches) {
      const size_t i = static_cast<size_t>(offset) / 64;
      if (offset == kNoRegister || i >= w_.in_flight.size()) return;
      found |= w_.in_flight[i] & uses;
      if (touches && w_.in_flight[i] & uses) w_.in_flight[i] |= kTouched;
    };
    const auto look_at_all = [&](bool touches) {
      constexpr u8 kRead = kAccumulates | kAccumulated, kWritten = kRead | kReads | kWasRead;
      for (int i = 0; i < kOperands; ++i) look(in.reg[i], i == 0 ? kWritten : kRead, touches);
      for (u32 i = 0; i < in.list_size; ++i) look(w_.lists[in.list + i], kRead, touches);
    };
    look_at_all(false);
    if (!found || launch_.program.opcodes[pc].starts_with("mov")) return;
    look_at_all(true);
    if (!(found & (kAccumulates | kReads))) return;
    w_.pc = pc;
    launch_.report(w_, static_cast<u32>(__builtin_ctz(mask)), "register in flight",
                   found & kAccumulates
                       ? "touches an accumulator of a wgmma that was not waited for"
                       : "writes an operand of a wgmma that was not waited for");
  }

  void run_group(size_t index) {
    u32 pc = w_.groups[index].pc;
    const u32 active = w_.groups[index].mask;
    const u32 stop = w_.groups.size() > 1 ? next_other(index) : kNoStop;
    u64 left = budget_;
    if (stop != kNoStop && left > kFairness)
      left = random() ? 1 + cluster_.random.below(64) : kFairness;
    const u64 begin = left;
    bool running = true;
    // A group at or behind `stop` takes one step at least.
    do {
      const u32 before = pc;
      pc = w_.in_flight.empty() ? run_pure(pc, active, stop, left)
                                : run_watched(pc, active, stop, left);
      if (left == 0 || (pc >= stop && pc != before)) break;
      const Instruction& in = code_[pc];
      if (in.flow == Flow::pure) continue;
      const u32 mask = lanes_of(in, active);
      w_.pc = pc;
      ++executions_[pc].warps;
      executions_[pc].lanes += static_cast<u32>(__builtin_popcount(mask));
      --left;
      if (in.flow == Flow::effect) {
        if (!w_.in_flight.empty()) check_in_flight(in, pc, mask);
        if (mask) in.run(w_, in, mask);
        ++pc;
      } else {
        w_.groups[index].pc = pc;
        running = step(index, in, active, mask);
        if (running) pc = w_.groups[index].pc;
      }
    } while (left > 0 && running && pc < stop && !w_.yields);
    if (running) w_.groups[index].pc = pc;
    budget_ -= std::min(begin - left, budget_);
    cluster_.instructions += begin - left;
  }

  // An instruction that concerns the scheduler. False: the group is no longer the one to run.
  bool step(size_t index, const Instruction& in, u32 active, u32 mask) {
    Group& g = w_.groups[index];
    switch (in.flow) {
      case Flow::branch: return branch(index, static_cast<u32>(in.imm), active, mask);
      case Flow::call:
        if (mask == 0) return skip(g);
        if (mask != active) split(index, active & ~mask, g.pc + 1);
        w_.groups[index].returns.push_back(w_.groups[index].pc + 1);
        w_.groups[index].pc = static_cast<u32>(in.imm);
        return mask == active;
      case Flow::ret:
        if (mask == 0) return skip(g);
        if (g.returns.empty()) return leave(index, active, mask);
        if (mask != active) split(index, active & ~mask, g.pc + 1);
        w_.groups[index].pc = w_.groups[index].returns.back();
        w_.groups[index].returns.pop_back();
        return mask == active;
      case Flow::exit: return mask ? leave(index, active, mask) : skip(g);
      case Flow::barrier:
        if (mask == 0) return skip(g);
        if (mask != active) split(index, active & ~mask, g.pc + 1);
        arrive_at_barrier(w_, index, in, mask);
        return false;
      case Flow::warp_sync: return warp_sync(index, in, active, mask);
      case Flow::wait: return wait(index, in, active, mask);
      case Flow::trap:
        if (mask == 0) return skip(g);
        launch_.report(w_, static_cast<u32>(__builtin_ctz(mask)), "trap",
                       "an instruction that is not supported, or a trap, was reached");
        cluster_.killed = true;
        return false;
      case Flow::pure:
      case Flow::effect: break;
    }
    return false;
  }

  static bool skip(Group& g) {
    ++g.pc;
    return true;
  }

  // Takes `mask` out of the group into one of its own at `pc`.
  void split(size_t index, u32 mask, u32 pc) {
    Group other = w_.groups[index];
    other.mask = mask;
    other.pc = pc;
    other.state = Group::State::ready;
    w_.groups[index].mask &= ~mask;
    w_.groups.push_back(std::move(other));
  }

  bool branch(size_t index, u32 target, u32 active, u32 taken) {
    if (taken == 0) return skip(w_.groups[index]);
    if (taken == active) {
      w_.groups[index].pc = target;
      return true;
    }
    split(index, active & ~taken, w_.groups[index].pc + 1);
    w_.groups[index].pc = target;
    return false;
  }

  bool leave(size_t index, u32 active, u32 mask) {
    for (const PendingCopy& copy : w_.copies)
      if (mask >> copy.lane & 1) {
        launch_.report(
            w_, copy.lane, "in flight at exit",
            "the thread exits while its cp.async of " + launch_.place(copy.pc) + " is under way");
        break;
      }
    std::erase_if(w_.copies, [&](const PendingCopy& copy) { return mask >> copy.lane & 1; });
    w_.live &= ~mask;
    w_.block->live_threads -= static_cast<u32>(__builtin_popcount(mask));
    if (mask == active) {
      w_.groups.erase(w_.groups.begin() + static_cast<std::ptrdiff_t>(index));
    } else {
      w_.groups[index].mask &= ~mask;
      ++w_.groups[index].pc;
    }
    // Those who wait for these lanes look again.
    for (Group& g : w_.groups)
      if (g.state == Group::State::at_warp_sync) g.state = Group::State::ready;
    recheck_barriers(*w_.block);
    return false;
  }

  // Lanes meet at a .sync instruction. At bar.warp.sync they may come from different places.
  bool warp_sync(size_t index, const Instruction& in, u32 active, u32 mask) {
    if (mask == 0) return skip(w_.groups[index]);
    if (mask != active) split(index, active & ~mask, w_.groups[index].pc + 1);
    const u32 lane = static_cast<u32>(__builtin_ctz(mask));
    const u32 members =
        in.reg[kMembers] == kNoRegister ? kAllLanes : reg<u32>(w_, in.reg[kMembers])[lane];
    if (mask & ~members)
      launch_.report(w_, static_cast<u32>(__builtin_ctz(mask & ~members)), "member mask",
                     "a lane executes an instruction whose member mask does not name it");
    const u32 wanted = members & w_.live;
    const bool anywhere = in.run == nullptr;
    u32 here = mask;
    for (const Group& g : w_.groups)
      if (g.state == Group::State::at_warp_sync && g.members == members &&
          (anywhere ? code_[g.pc].run == nullptr : g.pc == w_.groups[index].pc))
        here |= g.mask;
    if (wanted & ~here) {
      w_.groups[index].state = Group::State::at_warp_sync;
      w_.groups[index].members = members;
      return false;
    }
    if (in.reg[kMembers] == kNoRegister && here != kAllLanes)
      launch_.report(w_, lane, "inactive lane",
                     "an instruction for a whole warp is executed without all of its lanes");
    if (!anywhere) {
      in.run(w_, in, here);
    } else {
      sync_warp(w_);
    }
    const u32 pc = w_.groups[index].pc;
    for (Group& g : w_.groups)
      if (g.state == Group::State::at_warp_sync && g.members == members &&
          (anywhere ? code_[g.pc].run == nullptr : g.pc == pc)) {
        g.state = Group::State::ready;
        ++g.pc;
      }
    ++w_.groups[index].pc;
    return mask == active && here == mask;
  }

  bool wait(size_t index, const Instruction& in, u32 active, u32 mask) {
    w_.blocked = 0;
    if (mask) in.run(w_, in, mask);
    const u32 blocked = w_.blocked & mask;
    if (blocked == 0) return skip(w_.groups[index]);
    if (blocked != active) split(index, active & ~blocked, w_.groups[index].pc + 1);
    w_.groups[index].state = Group::State::waiting;
    return false;
  }

  RunningWarp& w_;
  Cluster& cluster_;
  Launch& launch_;
  const Instruction* code_;
  Executions* executions_;
  u64 budget_;
  u32 turns_ = 0;
};

}  // namespace

bool run_warp(RunningWarp& warp, u64 budget) { return WarpRun(warp, budget).run(); }

}  // namespace ptxsim
