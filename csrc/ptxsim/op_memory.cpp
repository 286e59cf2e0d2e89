// ld and st in every space.
//
// Operands of a decoded access: reg[0] the base address or none, imm the offset; the data registers
// in the list; width the bytes per lane; variant a set of MemoryFlags.
#include <cstring>

#include "ptxsim/access.h"
#include "ptxsim/launch.h"
#include "ptxsim/op_memory.h"
#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

using AccessFunction = u8* (*)(RunningWarp&, u32, u64, u32, Intent);

u8* shared_access_wide(RunningWarp& w, u32 lane, u64 address, u32 bytes, Intent intent) {
  return shared_access(w, lane, static_cast<u32>(address), bytes, intent);
}

// The address of a lane.
template <class Base>
u64 address_of(Warp& w, const Instruction& in, int lane) {
  const u64 base = in.reg[0] == kNoRegister ? 0 : reg<Base>(w, in.reg[0])[lane];
  return base + static_cast<u64>(in.imm);
}

template <class Memory, class Register, class Base, AccessFunction access>
void load(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  const Intent intent{false, true, (in.variant & kStrong) != 0};
  const s32* data = w.lists + in.list;
  if (in.variant & kCounted) count_request<Base>(w, in, mask);
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u64 address = address_of<Base>(w, in, lane);
    const u8* from = access(w, static_cast<u32>(lane), address, in.width, intent);
    for (int k = 0; k < in.list_size; ++k) {
      Memory value;
      std::memcpy(&value, from + k * sizeof(Memory), sizeof value);
      if (data[k] != kNoRegister) reg<Register>(w, data[k])[lane] = static_cast<Register>(value);
    }
    if (in.variant & kStrong) observe(w, static_cast<u32>(lane), address, in.variant);
  }
}

// After a store by which several lanes wrote to one place: they may, if with the same value.
template <class Memory, class Register>
void check_collision(RunningWarp& w, const Instruction& in, u32 mask, u8* const (&places)[kLanes]) {
  w.collides = false;
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    for (int k = 0; k < in.list_size; ++k) {
      const auto value =
          static_cast<Memory>(reg<Register>(w, w.lists[in.list + static_cast<u32>(k)])[lane]);
      if (std::memcmp(places[lane] + k * sizeof(Memory), &value, sizeof value) == 0) continue;
      w.block->launch().report(w, static_cast<u32>(lane), "race",
                               "lanes of one instruction write different values to one place");
      return;
    }
  }
}

template <class Memory, class Register, class Base, AccessFunction access>
void store(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  const Intent intent{true, false, (in.variant & kStrong) != 0};
  const s32* data = w.lists + in.list;
  if (in.variant & kCounted) count_request<Base>(w, in, mask);
  u8* places[kLanes];
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u64 address = address_of<Base>(w, in, lane);
    u8* to = places[lane] = access(w, static_cast<u32>(lane), address, in.width, intent);
    // Before the value can be seen, for the sake of readers on other workers.
    if (in.variant & kStrong) publish(w, static_cast<u32>(lane), address, in.variant);
    for (int k = 0; k < in.list_size; ++k) {
      const auto value = static_cast<Memory>(reg<Register>(w, data[k])[lane]);
      std::memcpy(to + k * sizeof(Memory), &value, sizeof value);
    }
  }
  if (w.collides) check_collision<Memory, Register>(w, in, mask, places);
}

// Parameters of the kernel are the same for all lanes and always valid.
template <class Memory, class Register>
void load_param(Warp& w, const Instruction& in, u32 mask) {
  const u8* from = running(w).block->launch().params.data() + in.imm;
  const s32* data = w.lists + in.list;
  for (int k = 0; k < in.list_size; ++k) {
    Memory value;
    std::memcpy(&value, from + k * sizeof(Memory), sizeof value);
    for (u32 m = mask; m; m &= m - 1)
      reg<Register>(w, data[k])[__builtin_ctz(m)] = static_cast<Register>(value);
  }
}

enum class Kind : u8 { load, store, load_param };

template <class Memory, class Register>
Handler handler_for(Kind kind, Space space, bool wide_base) {
  if (kind == Kind::load_param) return load_param<Memory, Register>;
  const bool loads = kind == Kind::load;
  switch (space) {
    case Space::shared:
      if (wide_base)
        return loads ? load<Memory, Register, u64, shared_access_wide>
                     : store<Memory, Register, u64, shared_access_wide>;
      return loads ? load<Memory, Register, u32, shared_access_wide>
                   : store<Memory, Register, u32, shared_access_wide>;
    case Space::local:
      if (wide_base)
        return loads ? load<Memory, Register, u64, local_access>
                     : store<Memory, Register, u64, local_access>;
      return loads ? load<Memory, Register, u32, local_access>
                   : store<Memory, Register, u32, local_access>;
    case Space::generic:
      return loads ? load<Memory, Register, u64, generic_access>
                   : store<Memory, Register, u64, generic_access>;
    default:
      return loads ? load<Memory, Register, u64, global_access>
                   : store<Memory, Register, u64, global_access>;
  }
}

template <class Memory>
Handler by_register(int register_size, Kind kind, Space space, bool wide_base) {
  constexpr bool is_signed = static_cast<Memory>(-1) < Memory{0};
  switch (register_size) {
    case 2:
      if constexpr (sizeof(Memory) <= 2)
        return handler_for<Memory, std::conditional_t<is_signed, s16, u16>>(kind, space, wide_base);
      return nullptr;
    case 4:
      if constexpr (sizeof(Memory) <= 4)
        return handler_for<Memory, std::conditional_t<is_signed, s32, u32>>(kind, space, wide_base);
      return nullptr;
    case 8:
      return handler_for<Memory, std::conditional_t<is_signed, s64, u64>>(kind, space, wide_base);
    default: return nullptr;
  }
}

Handler find_handler(Type type, int register_size, Kind kind, Space space, bool wide_base) {
  switch (type) {
    case Type::s8: return by_register<s8>(register_size, kind, space, wide_base);
    case Type::s16: return by_register<s16>(register_size, kind, space, wide_base);
    case Type::s32: return by_register<s32>(register_size, kind, space, wide_base);
    default: break;
  }
  switch (size_of(type)) {
    case 1: return by_register<u8>(register_size, kind, space, wide_base);
    case 2: return by_register<u16>(register_size, kind, space, wide_base);
    case 4: return by_register<u32>(register_size, kind, space, wide_base);
    case 8: return by_register<u64>(register_size, kind, space, wide_base);
    default: return nullptr;
  }
}

void decode_access(Decoder& d, const Statement& s, bool loads) {
  const Type type = last_type(s);
  const Operand& data = s.operands[loads ? 0 : 1];
  const Decoder::Address a = d.address(s.operands[loads ? 1 : 0]);
  Space space = space_of(s);
  if (space == Space::param && !a.kernel_param)
    space =
        a.local ? Space::local : Space::generic;  // a call's parameter, or a kernel's by pointer
  const std::vector<Operand> parts =
      data.kind == Operand::Kind::list ? data.parts : std::vector<Operand>{data};
  int register_size = 0;
  for (const Operand& part : parts) register_size = std::max(register_size, d.register_size(part));
  if (register_size == 0) register_size = std::max(size_of(type), 2);  // immediates only
  const Type register_type = register_size == 2   ? Type::b16
                             : register_size == 4 ? Type::b32
                                                  : Type::b64;
  Instruction in;
  std::vector<s32> registers;
  for (const Operand& part : parts)
    registers.push_back(loads ? d.write(part, register_type) : d.read(part, register_type));
  in.list = d.list(registers);
  in.list_size = static_cast<u8>(registers.size());
  in.width = static_cast<u8>(static_cast<size_t>(size_of(type)) * registers.size());
  if (in.width > 16) d.unsupported();
  in.reg[0] = a.base;
  in.imm = a.offset;
  in.variant = memory_flags(s);
  if (space == Space::shared || space == Space::global || space == Space::generic)
    in.variant |= kCounted;
  if (space == Space::shared) in.variant |= kSharedSpace;
  const Kind kind = a.kernel_param ? Kind::load_param : loads ? Kind::load : Kind::store;
  if (a.kernel_param && !loads) d.unsupported();
  const bool wide_base = a.base == kNoRegister || a.size == 8;
  if (!wide_base && (space == Space::generic || space == Space::global))
    d.unsupported("32-bit address");
  in.run = find_handler(type, register_size, kind, space, wide_base);
  if (!in.run) d.unsupported();
  d.emit(in);
}

}  // namespace

Space space_of(const Statement& s) {
  for (const std::string& part : s.parts) {
    if (part == "shared" || part == "shared::cta" || part == "shared::cluster")
      return Space::shared;
    if (part == "global") return Space::global;
    if (part == "local") return Space::local;
    if (part == "const") return Space::constant;
    if (part == "param" || part == "param::entry" || part == "param::func") return Space::param;
  }
  return Space::generic;
}

u8 memory_flags(const Statement& s) {
  u8 flags = 0;
  if (s.has("volatile") || s.has("relaxed") || s.has("mmio")) flags |= kStrong;
  if (s.has("acquire") || s.has("acq_rel")) flags |= kStrong | kAcquires;
  if (s.has("release") || s.has("acq_rel")) flags |= kStrong | kReleases;
  return flags;
}

void copy_local(Warp& warp, const Instruction& in, u32 mask) {
  const RunningWarp& w = running(warp);
  const u64 stride = w.block->launch().program.local_bytes;
  for (u32 m = mask; m; m &= m - 1) {
    u8* local = w.local + static_cast<u64>(__builtin_ctz(m)) * stride;
    std::memmove(local + in.imm2, local + in.imm, in.list);
  }
}

void decode_ld(Decoder& d, const Statement& s) { decode_access(d, s, true); }
void decode_st(Decoder& d, const Statement& s) { decode_access(d, s, false); }

}  // namespace ptxsim
