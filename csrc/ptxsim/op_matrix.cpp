// ldmatrix, stmatrix and mma.sync. The products themselves are lane handlers (lane_matrix.cpp).
#include <cstring>

#include "ptxsim/access.h"
#include "ptxsim/op_memory.h"
#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

constexpr int kRows = 8, kRowBytes = 16;

// Matrix k of the list has its rows at the addresses of lanes 8 k .. 8 k + 7, each 16 bytes. As
// memory, a 32-bit register is the row-major matrix: lane 4 r + c holds elements 2 c, 2 c + 1 of
// row r.
using Tile = u16[kRows][kRowBytes / 2];

void transpose(const Tile& from, Tile& to) {
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kRows; ++c) to[r][c] = from[c][r];
}

void count_rows(RunningWarp& w, const Instruction& in) {
  u64 addresses[kLanes] = {};
  for (int lane = 0; lane < kRows * in.list_size; ++lane)
    addresses[lane] = reg<u32>(w, in.reg[0])[lane] + static_cast<u64>(in.imm);
  const u32 lanes = in.list_size == 4 ? kAllLanes : (1u << (kRows * in.list_size)) - 1;
  count_addresses(w, addresses, lanes, kRowBytes, true);
}

// variant: transposed
template <bool Load>
void move_matrices(Warp& warp, const Instruction& in, u32) {
  RunningWarp& w = running(warp);
  count_rows(w, in);
  const u32* base = reg<u32>(w, in.reg[0]);
  const s32* list = w.lists + in.list;
  u32 addresses[kLanes];  // a destination may be the address register itself
  for (int lane = 0; lane < kRows * in.list_size; ++lane)
    addresses[lane] = base[lane] + static_cast<u32>(in.imm);
  for (int k = 0; k < in.list_size; ++k) {
    alignas(64) Tile tile, turned;
    Tile& rows = in.variant ? turned : tile;  // as they are in memory
    if (!Load) {
      std::memcpy(tile, reg<u8>(w, list[k]), sizeof tile);
      if (in.variant) transpose(tile, turned);
    }
    for (int r = 0; r < kRows; ++r) {
      const u32 lane = static_cast<u32>(kRows * k + r);
      u8* bytes = shared_access(w, lane, addresses[lane], kRowBytes, Load ? kRead : kWrite);
      if (Load)
        std::memcpy(rows[r], bytes, kRowBytes);
      else
        std::memcpy(bytes, rows[r], kRowBytes);
    }
    if (Load) {
      if (in.variant) transpose(turned, tile);
      if (list[k] != kNoRegister) std::memcpy(reg<u8>(w, list[k]), tile, sizeof tile);
    }
  }
}

int dimension(const std::string& shape, char which) {
  const size_t at = shape.find(which);
  return at == std::string::npos ? 0 : std::atoi(shape.c_str() + at + 1);
}

}  // namespace

void decode_ldmatrix(Decoder& d, const Statement& s) {
  const bool loads = s.parts[0] == "ldmatrix";
  const Operand& data = s.operands[loads ? 0 : 1];
  const Decoder::Address a = d.address(s.operands[loads ? 1 : 0]);
  if (!s.has("m8n8") || !s.has("b16")) d.unsupported();
  Instruction in;
  in.flow = Flow::warp_sync;
  const std::vector<s32> registers =
      loads ? d.write_all(data, Type::b32) : d.read_all(data, Type::b32);
  in.list = d.list(registers);
  in.list_size = static_cast<u8>(registers.size());
  if (!s.has("x" + std::to_string(registers.size()))) d.unsupported("number of registers");
  in.reg[0] = a.base == kNoRegister ? d.constant(0, 4) : a.base;
  if (a.base != kNoRegister && a.size == 8) {  // a shared address in a 64-bit register
    Instruction narrow;
    narrow.reg[0] = d.temporary(4);
    narrow.reg[1] = a.base;
    d.emit_lanes(narrow, lane_handlers().convert({Type::u32, Type::u64}));
    in.reg[0] = narrow.reg[0];
  }
  in.imm = a.offset;
  in.variant = s.has("trans");
  in.run = loads ? move_matrices<true> : move_matrices<false>;
  d.emit(in);
}

void decode_mma(Decoder& d, const Statement& s) {
  const size_t n = s.parts.size();
  if (n < 8 || !s.has("sync") || !s.has("row") || !s.has("col") || s.has("satfinite"))
    d.unsupported();
  const Type result = parse_type(s.parts[n - 4]), a = parse_type(s.parts[n - 3]);
  const Type b = parse_type(s.parts[n - 2]), addend = parse_type(s.parts[n - 1]);
  const std::string* shape = nullptr;
  for (const std::string& part : s.parts)
    if (part[0] == 'm' && part.find('k') != std::string::npos) shape = &part;
  if (!shape || result != addend) d.unsupported();
  Instruction in;
  in.flow = Flow::warp_sync;
  std::vector<s32> registers = d.write_all(s.operands[0], Type::b32);
  for (size_t i = 1; i < 4; ++i)
    for (const s32 offset : d.read_all(s.operands[i], Type::b32)) registers.push_back(offset);
  in.list = d.list(registers);
  in.list_size = static_cast<u8>(registers.size());
  in.run = lane_handlers().matrix(dimension(*shape, 'm'), dimension(*shape, 'n'),
                                  dimension(*shape, 'k'), a, b, result);
  if (!in.run) d.unsupported();
  d.emit(in);
}

}  // namespace ptxsim
