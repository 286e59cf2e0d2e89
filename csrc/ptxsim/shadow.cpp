#include "ptxsim/shadow.h"

#include "ptxsim/launch.h"

namespace ptxsim {
namespace {

constexpr u32 word_mask(int word) { return 15u << (4 * word); }

// Do the words that both touch belong to the same lane? Where several lanes shared a word it is not
// known, and counts as yes: a missed race is better than a false one.
bool same_lane(const Record& r, const Access& a) {
  const u32 both = r.bytes & a.bytes;
  for (int word = 0; word < 4; ++word)
    if ((both & word_mask(word)) && r.lane(word) != a.lane && r.lane(word) < kSeveralLanes)
      return false;
  return true;
}

bool known_up_to(const Known& known, const Record& r, const Access& a) {
  if (r.time <= known.all) return true;
  if (r.time > known.some) return false;
  const u32 both = r.bytes & a.bytes;
  for (int word = 0; word < 4; ++word)
    if ((both & word_mask(word)) && r.lane(word) < kSeveralLanes &&
        !(known.lanes >> r.lane(word) & 1))
      return false;
  return true;
}

// Did the recorded access happen before this one?
bool ordered(const Record& r, const Access& a, const RunningWarp& w, u32 agent) {
  const Cluster& cluster = *w.block->cluster;
  if (r.time <= cluster.base) return true;
  if (r.cluster != cluster.index) {
    if (!w.clock.foreign) return false;
    const auto it = w.clock.foreign->find(r.cluster);
    return it != w.clock.foreign->end() && r.agent < it->second.size() &&
           known_up_to(it->second[r.agent], r, a);
  }
  const bool async = is_async(static_cast<u32>(r.agent));
  if (r.time <= cluster.floor && !async) return true;  // a barrier does not wait for copies
  if (r.agent == agent) return async || r.time <= w.synced || same_lane(r, a);
  return known_up_to(w.clock.agents[r.agent], r, a);
}

void report(const Record& r, bool record_writes, const Access& a, RunningWarp& w, const char* space,
            u64 address) {
  const u32 both = r.bytes & a.bytes;
  const int byte = __builtin_ctz(both);
  const u32 lane = r.lane(byte / 4);
  const u32 warp = r.agent % kAgentsPerBlock;
  std::string who = warp == kCopyAgent ? "an asynchronous copy" : "wgmma";
  if (warp < kMaxWarps)
    who = lane < kSeveralLanes ? "thread " + std::to_string(warp * kLanes + lane)
                               : "warp " + std::to_string(warp);
  if (r.cluster != w.block->cluster->index) who += " of another block";
  char where[40];
  std::snprintf(where, sizeof where, "0x%llx", static_cast<unsigned long long>(address + byte));
  w.block->launch().report(w, a.lane, "race",
                           std::string(a.write ? "write to " : "read of ") + space + " memory at " +
                               where + " is not ordered after the " +
                               (record_writes ? "write" : "read") + " by " + who + " at " +
                               w.block->launch().place(static_cast<u32>(r.pc)));
}

void enter(Record (&records)[2], const Access& a, RunningWarp& w, u32 agent) {
  const Cluster& cluster = *w.block->cluster;
  Record* slot = nullptr;
  for (Record& r : records) {
    if (r.time == cluster.time && r.cluster == cluster.index && r.agent == agent && r.pc == w.pc &&
        r.strong == a.strong) {
      for (int word = 0; word < 4; ++word)
        if (a.bytes & word_mask(word))
          r.set_lane(word,
                     r.bytes & word_mask(word) && r.lane(word) != a.lane ? kSeveralLanes : a.lane);
      r.bytes |= a.bytes;
      return;
    }
    // A strong access does not hide a plain one from strong accesses of others.
    const bool hides = !a.strong || r.strong || r.time <= cluster.floor;
    if (!slot &&
        (r.time <= cluster.base || (hides && (r.bytes & ~a.bytes) == 0 && ordered(r, a, w, agent))))
      slot = &r;
  }
  if (!slot) slot = &records[w.block->cluster->random.next() >> 40 & 1];
  Record fresh{};  // put together in registers and stored at once
  fresh.time = cluster.time;
  fresh.cluster = cluster.index;
  fresh.agent = agent;
  fresh.bytes = a.bytes;
  fresh.lanes = a.lane * 0x41041u;  // words that are not touched are not looked at
  fresh.pc = w.pc;
  fresh.strong = a.strong;
  *slot = fresh;
}

}  // namespace

void check_race(ShadowLine& line, const Access& a, RunningWarp& w, u32 agent, const char* space,
                u64 address) {
  // What a barrier of all threads has ordered, or the same lane did before: most of the time.
  const Cluster& cluster = *w.block->cluster;
  const auto old = [&](const Record& r) {
    return r.time <= cluster.floor && r.cluster == cluster.index &&
           !is_async(static_cast<u32>(r.agent));
  };
  const auto compare = [&](const Record& r, bool record_writes) {
    // Lanes of one instruction may write the same value to one place; the store looks at that.
    if (a.write && record_writes && r.time == cluster.time && r.agent == agent && r.pc == w.pc &&
        r.cluster == cluster.index && (r.bytes & a.bytes)) {
      w.collides = true;
      return;
    }
    if ((r.bytes & a.bytes) && !old(r) && !(r.strong && a.strong) && !ordered(r, a, w, agent))
      report(r, record_writes, a, w, space, address);
  };
  compare(line.write[0], true);
  compare(line.write[1], true);
  if (a.write) {
    compare(line.read[0], false);
    compare(line.read[1], false);
  }
  enter(a.write ? line.write : line.read, a, w, agent);
}

}  // namespace ptxsim
