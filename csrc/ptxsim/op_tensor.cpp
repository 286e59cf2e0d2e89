// Tensor copies between global and shared memory by a tensor map, and changes to tensor maps.
#include <algorithm>
#include <cstring>

#include "ptxsim/access.h"
#include "ptxsim/async.h"
#include "ptxsim/launch.h"
#include "ptxsim/opcodes.h"
#include "ptxsim/synchronise.h"
#include "ptxsim/tensor_map.h"

namespace ptxsim {
namespace {

constexpr u32 kAlign = 128, kChunk = 16;

struct Box {
  TensorMap map;
  s64 at[TensorMap::kDims];
};

// Bits 4 .. of an address are exchanged with those three above, by the map's swizzle.
u32 swizzled(u32 offset, u8 swizzle) {
  const u32 mask = ((1u << swizzle) - 1) << 4;
  return offset ^ ((offset >> 3) & mask);
}

// Calls f(row, address, first, count) for every row of the box: elements [first, first + count) of
// it are inside the tensor and begin at `address`.
template <class F>
void for_rows(const Box& box, F f) {
  const TensorMap& map = box.map;
  u32 rows = 1;
  for (int i = 1; i < map.rank; ++i) rows *= map.box[i];
  for (u32 row = 0; row < rows; ++row) {
    bool inside = true;
    u64 offset = 0;
    u32 rest = row;
    for (int i = 1; i < map.rank; ++i) {
      const s64 x = box.at[i] + rest % map.box[i];
      rest /= map.box[i];
      inside &= x >= 0 && x < s64{map.size[i]};
      offset += static_cast<u64>(x) * map.stride[i - 1];
    }
    const s64 first = std::max<s64>(0, -box.at[0]);
    const s64 last = std::min<s64>(map.box[0], s64{map.size[0]} - box.at[0]);
    const s64 count = inside ? std::max<s64>(last - first, 0) : 0;
    const u64 address = map.base + offset + static_cast<u64>((box.at[0] + first) * map.element);
    f(row, address, static_cast<u32>(first), static_cast<u32>(count));
  }
}

void fill(const TensorMap& map, u8* row, u32 bytes) {
  std::memset(row, 0, bytes);
  if (!map.fill_nan) return;
  for (u32 i = 0; i + map.element <= bytes; i += map.element)
    std::memset(row + i, 0xff, map.element);
}

void copy_in(RunningWarp& engine, u32 lane, const Box& box, Block& block, u32 offset) {
  const TensorMap& map = box.map;
  const u32 row_bytes = map.box[0] * map.element;
  u8 buffer[256 * 8];
  for_rows(box, [&](u32 row, u64 address, u32 first, u32 count) {
    fill(map, buffer, row_bytes);
    if (count &&
        check_global_range(engine, lane, address, u64{count} * map.element, kRead, engine.agent))
      std::memcpy(buffer + first * map.element, reinterpret_cast<const u8*>(address),
                  size_t{count} * map.element);
    for (u32 i = 0; i < row_bytes; i += kChunk)
      std::memcpy(block.shared.data() + swizzled(offset + row * row_bytes + i, map.swizzle),
                  buffer + i, kChunk);
  });
}

void copy_out(RunningWarp& engine, u32 lane, const Box& box, u32 offset) {
  const TensorMap& map = box.map;
  const u32 row_bytes = map.box[0] * map.element;
  u8 buffer[256 * 8];
  for_rows(box, [&](u32 row, u64 address, u32 first, u32 count) {
    for (u32 i = 0; i < row_bytes; i += kChunk)
      std::memcpy(buffer + i,
                  engine.block->shared.data() + swizzled(offset + row * row_bytes + i, map.swizzle),
                  kChunk);
    if (count &&
        check_global_range(engine, lane, address, u64{count} * map.element, kWrite, engine.agent))
      std::memcpy(reinterpret_cast<u8*>(address), buffer + first * map.element,
                  size_t{count} * map.element);
  });
}

bool read_map(RunningWarp& w, u32 lane, u64 address, int dims, Box& box) {
  if (!check_global_range(w, lane, address, sizeof(TensorMap), kRead, w.agent)) return false;
  std::memcpy(&box.map, reinterpret_cast<const void*>(address), sizeof(TensorMap));
  const TensorMap& map = box.map;
  const char* wrong = nullptr;
  if (address % 64 || map.magic != TensorMap::kMagic)
    wrong = "the address of no tensor map";
  else if (map.rank != dims)
    wrong = "a tensor map of another rank than the copy";
  else if (std::any_of(map.step, map.step + dims, [](u8 step) { return step > 1; }))
    wrong = "element strides, which are not supported";
  if (wrong) w.block->launch().report(w, lane, "tensor map", wrong);
  return !wrong;
}

bool prepare(RunningWarp& w, u32 lane, const Instruction& in, u32 shared, Box& box) {
  const s32* list = w.lists + in.list;
  const int dims = in.list_size - 4;
  if (!read_map(w, lane, reg<u64>(w, list[1])[lane], dims, box)) return false;
  for (int i = 0; i < dims; ++i) box.at[i] = reg<s32>(w, list[4 + i])[lane];
  if (offset_of(shared) % kAlign)
    w.block->launch().report(w, lane, "misaligned",
                             "the shared memory of a tensor copy must be 128-byte aligned");
  return true;
}

// list: shared memory, map, barrier, cluster mask or none, coordinates
void load(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  Cluster& cluster = *w.block->cluster;
  const s32* list = w.lists + in.list;
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    const u32 to = reg<u32>(w, list[0])[lane], barrier = reg<u32>(w, list[2])[lane];
    Box box;
    if (!prepare(w, lane, in, to, box)) continue;
    const u32 offset = offset_of(to), bytes = box.map.box_bytes();
    auto engine = engine_for(w, lane, kCopyAgent);
    std::vector<std::pair<Block*, u32>> targets;  // and where their barrier is
    if (list[3] == kNoRegister) {
      targets.emplace_back(owner_of(*w.block, to), barrier);
    } else {
      for (u32 ranks = reg<u16>(w, list[3])[lane], rank = 0; ranks >> rank; ++rank)
        if (ranks >> rank & 1 && rank < cluster.blocks.size())
          targets.emplace_back(cluster.blocks[rank].get(),
                               ((rank + 1) << kRankShift) | offset_of(barrier));
    }
    for (const auto& [block, where] : targets) {
      if (!block ||
          !check_shared_range(*engine, lane, *block, offset, bytes, kWrite, engine->agent))
        continue;
      mark_range(*block, offset, bytes, true);
      std::memset(block->shared.data() + offset, 0xff, bytes);
      Block* target = block;
      const u32 target_barrier = where;
      enqueue(w, lane, AsyncOperation::kNoGroup, [=] {
        mark_range(*target, offset, bytes, false);
        check_shared_range(*engine, lane, *target, offset, bytes, kWrite, engine->agent);
        copy_in(*engine, lane, box, *target, offset);
        if (MemoryBarrier* b = find_memory_barrier(*engine, lane, target_barrier))
          complete_transactions(*target->cluster, *b, bytes, engine->clock, engine->agent);
      });
    }
  }
}

// list: shared memory, map, none, none, coordinates
void store(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  const s32* list = w.lists + in.list;
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    const u32 from = offset_of(reg<u32>(w, list[0])[lane]);
    Box box;
    if (!prepare(w, lane, in, from, box)) continue;
    const u32 bytes = box.map.box_bytes();
    auto engine = engine_for(w, lane, kCopyAgent);
    if (!check_shared_range(*engine, lane, *w.block, from, bytes, kRead, engine->agent)) continue;
    check_proxy(w, lane, *w.block, from, bytes);
    enqueue(w, lane, w.bulk_groups[lane], [=] {
      check_shared_range(*engine, lane, *engine->block, from, bytes, kRead, engine->agent);
      copy_out(*engine, lane, box, from);
    });
  }
}

enum class Field : u8 { address, rank, box, size, stride, step };

// reg[1] address, reg[2] value, imm dimension, variant the field; width 4: in shared memory
void replace(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    TensorMap* map = nullptr;
    if (in.width == 4) {
      const u32 offset = offset_of(reg<u32>(w, in.reg[1])[lane]);
      if (check_shared_range(w, lane, *w.block, offset, sizeof *map, kWrite, w.agent))
        map = reinterpret_cast<TensorMap*>(w.block->shared.data() + offset);
    } else {
      const u64 address = reg<u64>(w, in.reg[1])[lane];
      if (check_global_range(w, lane, address, sizeof *map, kWrite, w.agent))
        map = reinterpret_cast<TensorMap*>(address);
    }
    if (!map) continue;
    const auto field = static_cast<Field>(in.variant);
    const bool wide = field == Field::address || field == Field::stride;
    const u64 value = wide ? reg<u64>(w, in.reg[2])[lane] : reg<u32>(w, in.reg[2])[lane];
    switch (field) {
      case Field::address: map->base = value; break;
      case Field::rank: map->rank = static_cast<u8>(value + 1); break;
      case Field::box: map->box[in.imm] = static_cast<u32>(value); break;
      case Field::size: map->size[in.imm] = static_cast<u32>(value); break;
      case Field::stride:
        if (in.imm < TensorMap::kDims - 1) map->stride[in.imm] = value;
        break;
      case Field::step: map->step[in.imm] = static_cast<u8>(value); break;
    }
  }
}

// The warp copies a map from shared to global memory and fences. reg[1] to, reg[2] from
void copy_map(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  const u32 lane = static_cast<u32>(__builtin_ctz(mask));
  const u64 to = reg<u64>(w, in.reg[1])[lane];
  const u32 from = offset_of(reg<u32>(w, in.reg[2])[lane]);
  sync_warp(w);
  if (check_shared_range(w, lane, *w.block, from, sizeof(TensorMap), kRead, w.agent) &&
      check_global_range(w, lane, to, sizeof(TensorMap), kWrite, w.agent))
    std::memcpy(reinterpret_cast<void*>(to), w.block->shared.data() + from, sizeof(TensorMap));
  sync_warp(w);
  fence(w, mask);
}

}  // namespace

void decode_tensor_copy(Decoder& d, const Statement& s) {
  if (s.has("im2col") || s.has("tile::gather4") || s.has("tile::scatter4")) d.unsupported();
  const bool stores = s.has("bulk_group");
  const Operand& where = s.operands[stores ? 0 : 1];  // [map, {coordinates}]
  if (where.parts.size() != 2) d.unsupported("operands of a tensor copy");
  Operand map = where;
  map.parts.resize(1);
  std::vector<s32> list = {d.address_value(s.operands[stores ? 1 : 0], 4), d.address_value(map, 8),
                           stores ? kNoRegister : d.address_value(s.operands[2], 4), kNoRegister};
  if (s.has("multicast::cluster")) list[3] = d.read(s.operands[3], Type::b16);
  for (const s32 offset : d.read_all(where.parts[1], Type::b32)) list.push_back(offset);
  Instruction in;
  in.list = d.list(list);
  in.list_size = static_cast<u8>(list.size());
  in.run = stores ? store : load;
  d.emit(in);
}

void decode_tensormap(Decoder& d, const Statement& s) {
  Instruction in;
  if (s.parts[1] == "cp_fenceproxy") {
    in.flow = Flow::warp_sync;
    in.reg[1] = d.address_value(s.operands[0], 8);
    in.reg[2] = d.address_value(s.operands[1], 4);
    in.run = copy_map;
    return d.emit(in);
  }
  if (s.parts[1] != "replace") d.unsupported();
  in.width = space_of(s) == Space::shared ? 4 : 8;
  in.reg[1] = d.address_value(s.operands[0], in.width);
  const auto field = s.has("global_address")   ? Field::address
                     : s.has("global_dim")     ? Field::size
                     : s.has("global_stride")  ? Field::stride
                     : s.has("box_dim")        ? Field::box
                     : s.has("element_stride") ? Field::step
                                               : Field::rank;
  if (field == Field::rank && !s.has("rank")) d.unsupported();
  in.variant = static_cast<u8>(field);
  if (s.operands.size() > 2) in.imm = d.immediate(s.operands[1]);
  if (in.imm < 0 || in.imm >= TensorMap::kDims) d.unsupported("dimension");
  const bool wide = field == Field::address || field == Field::stride;
  in.reg[2] = d.read(s.operands.back(), wide ? Type::b64 : Type::b32);
  in.run = replace;
  d.emit(in);
}

}  // namespace ptxsim
