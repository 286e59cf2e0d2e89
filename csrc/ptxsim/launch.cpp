#include "ptxsim/launch.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <stdexcept>
#include <thread>

#include "ptxsim/schedule.h"

namespace ptxsim {
namespace {

constexpr u64 kTurn = 20'000'000;  // instructions after which a block makes room for others

void fill_constants(const Program& program, const Parameters& params, RunningWarp& w) {
  for (const Constant& c : program.constants) {
    const u64 bits = c.param ? c.bits + reinterpret_cast<u64>(params.data()) : c.bits;
    if (c.size == 0) {
      predicate(w, c.offset) = static_cast<u32>(bits);
      continue;
    }
    for (int lane = 0; lane < kLanes; ++lane)
      std::memcpy(w.registers + c.offset + lane * c.size, &bits, static_cast<size_t>(c.size));
  }
}

std::unique_ptr<Block> make_block(Launch& launch, Cluster& cluster) {
  const Program& program = launch.program;
  auto block = std::make_unique<Block>();
  block->cluster = &cluster;
  block->shared.resize(program, launch.shape.dynamic_shared);
  const u64 threads = launch.shape.block.count();
  const size_t warps = (threads + kLanes - 1) / kLanes;
  // A register file starts on a page, and a line more keeps warps out of each other's cache sets.
  const size_t stride = (program.register_bytes + 4095) / 4096 * 4096 + 64;
  block->registers = std::make_unique<LazyPages>(warps * stride);
  const size_t local = size_t{program.local_bytes} * kLanes;
  block->locals = std::make_unique<LazyPages>(std::max<size_t>(warps * local, 1));
  block->warps.resize(warps);
  for (size_t i = 0; i < warps; ++i) {
    RunningWarp& w = block->warps[i];
    w.block = block.get();
    w.index = static_cast<u32>(i);
    w.registers = block->registers->data() + i * stride;
    w.lists = program.lists.data();
    w.local = block->locals->data() + i * local;
    fill_constants(program, launch.params, w);
  }
  return block;
}

// Puts the block at the beginning of the kernel.
void start_block(Block& block, u32 rank, Dim3 id, const Launch& launch) {
  const Dim3& grid = launch.shape.grid;
  block.rank = rank;
  block.id = id;
  block.linear = (u64{id.z} * grid.y + id.y) * grid.x + id.x;
  block.live_threads = static_cast<u32>(launch.shape.block.count());
  block.shared.reset(launch.options.check_races);
  const size_t agents = block.cluster->blocks.size() * kAgentsPerBlock;
  block.memory_barriers.clear();
  block.published.clear();
  for (Barrier& barrier : block.barriers) {
    barrier = Barrier{};
    barrier.clock.reset(agents);
  }
  for (RunningWarp& w : block.warps) {
    const u32 remaining = block.live_threads - w.index * kLanes;
    w.live = remaining >= kLanes ? kAllLanes : (1u << remaining) - 1;
    w.groups.clear();
    w.groups.push_back({0, w.live, Group::State::ready, 0, 0, {}});
    w.yields = false;
    w.clock.reset(agents);
    w.synced = 0;
    w.fence.reset();
    w.agent = rank * kAgentsPerBlock + w.index;
    w.copies.clear();
    w.copy_groups.fill(0);
    w.bulk_groups.fill(0);
    w.cluster_phase.fill(0);
    w.proxy_fence = 0;
    w.matrix_open = {};
    w.matrix_groups.clear();
    w.in_flight.clear();
    w.matrix_fenced = false;
    fill_special_registers(launch.program, w);
  }
}

void start_cluster(Cluster& cluster, u64 index, const Launch& launch) {
  const Dim3 &c = launch.shape.cluster, &grid = launch.shape.grid;
  const u64 across = grid.x / c.x, down = grid.y / c.y;
  const Dim3 first{static_cast<u32>(index % across) * c.x,
                   static_cast<u32>(index / across % down) * c.y,
                   static_cast<u32>(index / (across * down)) * c.z};
  cluster.index = static_cast<u32>(index);
  cluster.barrier = {};
  cluster.base = cluster.floor = launch.memory.time_base();
  cluster.time = cluster.base + 1;
  cluster.killed = cluster.woke = false;
  cluster.instructions = 0;
  cluster.async.clear();
  cluster.random.state =
      (launch.options.seed + 1) * 0x9e3779b97f4a7c15u ^ (index + 1) * 0xd1b54a32d192ed03u;
  u32 rank = 0;
  for (u32 z = 0; z < c.z; ++z)
    for (u32 y = 0; y < c.y; ++y)
      for (u32 x = 0; x < c.x; ++x, ++rank)
        start_block(*cluster.blocks[rank], rank, {first.x + x, first.y + y, first.z + z}, launch);
}

std::unique_ptr<Cluster> make_cluster(Launch& launch, Metrics& metrics) {
  auto cluster = std::make_unique<Cluster>();
  cluster->launch = &launch;
  cluster->metrics = &metrics;
  for (u64 i = 0; i < launch.shape.cluster.count(); ++i)
    cluster->blocks.push_back(make_block(launch, *cluster));
  return cluster;
}

}  // namespace

const LaunchShape& Block::shape() const { return cluster->launch->shape; }
Launch& Block::launch() const { return *cluster->launch; }

Parameters::Parameters(const std::vector<u8>& bytes) : size_(bytes.size()) {
  constexpr u64 kAlign = 128;
  storage_ = std::make_unique<u8[]>(size_ + kAlign);
  data_ = storage_.get() + (kAlign - reinterpret_cast<u64>(storage_.get()) % kAlign) % kAlign;
  std::copy(bytes.begin(), bytes.end(), data_);
}

Launch::Launch(const LoadedModule& m, const Program& p, const LaunchShape& s,
               const std::vector<u8>& parameters, GlobalMemory& g, const LaunchOptions& o)
    : module(m), program(p), shape(s), params(parameters), memory(g), options(o) {
  check_shape();
}

void Launch::check_shape() const {
  const auto fail = [&](const std::string& what) {
    throw std::invalid_argument("launch of " + program.name + ": " + what);
  };
  const auto text = [](const Dim3& d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) +
           ")";
  };
  const u64 threads = shape.block.count();
  if (threads == 0 || threads > 1024 || shape.block.z > 64)
    fail("a block has 1 to 1024 threads, got " + text(shape.block));
  if (shape.grid.count() == 0 || shape.grid.y > 65535 || shape.grid.z > 65535)
    fail("grid " + text(shape.grid) + " is out of range");
  if (shape.cluster.count() == 0 || shape.cluster.count() > 15 || shape.grid.x % shape.cluster.x ||
      shape.grid.y % shape.cluster.y || shape.grid.z % shape.cluster.z)
    fail("grid " + text(shape.grid) + " is no multiple of cluster " + text(shape.cluster));
  const Dim3& wanted = program.required_threads;
  if (wanted.x &&
      (wanted.x != shape.block.x || wanted.y != shape.block.y || wanted.z != shape.block.z))
    fail("the kernel requires a block of " + text(wanted) + ", got " + text(shape.block));
  if (program.max_threads.x && threads > program.max_threads.count())
    fail("the kernel was compiled for at most " + std::to_string(program.max_threads.count()) +
         " threads, got " + std::to_string(threads));
  if (program.shared_bytes + shape.dynamic_shared > 227 * 1024)
    fail("a block has at most 227 KiB of shared memory, got " +
         std::to_string(program.shared_bytes + shape.dynamic_shared) + " bytes");
  if (params.size() < program.param_bytes)
    fail("expected " + std::to_string(program.param_bytes) + " bytes of parameters, got " +
         std::to_string(params.size()));
}

LaunchResult Launch::run() {
  for (const LoadedModule::Storage& s : module.storage())
    memory.add(s.address, s.size, s.name, s.writable, true);
  memory.add(reinterpret_cast<u64>(params.data()), params.size(), "the parameters", false, true);
  const u64 per_cluster = shape.cluster.count();
  std::vector<u64> order(shape.grid.count() / per_cluster);
  for (u64 i = 0; i < order.size(); ++i) order[i] = i;
  if (options.schedule == Schedule::reverse) std::reverse(order.begin(), order.end());
  if (options.schedule == Schedule::random) {
    Random random{(options.seed + 1) * 0x9e3779b97f4a7c15u};
    for (u64 i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
  }
  std::atomic<u64> next{0};
  latest_time_ = memory.time_base();
  const int workers =
      static_cast<int>(std::clamp<u64>(static_cast<u64>(options.workers), 1, order.size()));
  std::vector<Metrics> metrics(static_cast<size_t>(workers));
  std::vector<std::jthread> threads;
  for (int i = 1; i < workers; ++i)
    threads.emplace_back([&, i] { work(next, order, metrics[static_cast<size_t>(i)]); });
  work(next, order, metrics[0]);
  threads.clear();
  LaunchResult result;
  for (const Metrics& m : metrics) result.metrics.add(m);
  memory.advance_time(latest_time_ + 1);
  memory.remove(reinterpret_cast<u64>(params.data()));
  result.reports = reports.take();
  return result;
}

// Blocks that wait for others (a grid barrier, a semaphore) leave room for them to start.
void Launch::work(std::atomic<u64>& next, const std::vector<u64>& order, Metrics& metrics) {
  metrics.resize(program.code.size());
  std::list<std::unique_ptr<Cluster>> live;
  std::vector<std::unique_ptr<Cluster>> idle;
  const auto start = [&] {
    const u64 i = next.fetch_add(1);
    if (i >= order.size()) return;
    if (idle.empty()) idle.push_back(make_cluster(*this, metrics));
    live.push_back(std::move(idle.back()));
    idle.pop_back();
    start_cluster(*live.back(), order[i], *this);
  };
  for (start(); !live.empty() && !stopped;) {
    for (auto it = live.begin(); it != live.end() && !stopped;) {
      Cluster& cluster = **it;
      const Progress progress = run_cluster(cluster, kTurn);
      if (progress == Progress::more) {
        ++it;
        continue;
      }
      if (progress == Progress::stuck) stopped = true;
      u32 seen = latest_time_;
      while (seen < cluster.time && !latest_time_.compare_exchange_weak(seen, cluster.time))
        continue;
      idle.push_back(std::move(*it));
      it = live.erase(it);
    }
    start();
  }
}

std::unique_lock<std::mutex> Launch::lock_shadow(u64 address) {
  if (options.workers <= 1) return {};
  return std::unique_lock(shadow_locks_[address / 4096 % shadow_locks_.size()]);
}

// "path/file.cu:12", or empty.
std::string Launch::source_text(int file, int line) const {
  const auto it = program.module->files.find(file);
  if (it == program.module->files.end() || line <= 0) return "";
  return it->second + ":" + std::to_string(line);
}

std::string Launch::place(u32 pc) const {
  const Origin& origin = program.origins[pc];
  const std::string source = source_text(origin.source.file, origin.source.line);
  std::string text = "PTX line " + std::to_string(origin.line);
  if (!source.empty()) text += " (" + source.substr(source.find_last_of('/') + 1) + ")";
  return text;
}

void Launch::report(const RunningWarp& w, u32 lane, const char* kind, const std::string& message) {
  const Origin& origin = program.origins[w.pc];
  Report r;
  r.kind = kind;
  r.message = message;
  r.kernel = program.name;
  r.block = w.block->id;
  r.thread = w.index * kLanes + lane;
  r.ptx_line = origin.line;
  const std::vector<std::string>& lines = program.module->lines;
  if (origin.line > 0 && static_cast<size_t>(origin.line) <= lines.size()) {
    const std::string& line = lines[static_cast<size_t>(origin.line) - 1];
    const size_t begin = std::min(line.find_first_not_of(" \t"), line.size());
    r.ptx = line.substr(begin, 160);
  }
  r.source = source_text(origin.source.file, origin.source.line);
  r.called_from = source_text(origin.source.caller_file, origin.source.caller_line);
  reports.add(std::move(r));
}

}  // namespace ptxsim
