// wgmma: products of matrices in shared memory by a warpgroup. Each warp makes its 16 of the 64
// rows. The product is formed at issue; until the wait the registers are watched, and the reads of
// shared memory belong to the matrix unit, whose work nobody knows of before the wait.
#include <algorithm>
#include <cstring>

#include "ptxsim/access.h"
#include "ptxsim/async.h"
#include "ptxsim/formats.h"
#include "ptxsim/launch.h"
#include "ptxsim/opcodes.h"
#include "ptxsim/synchronise.h"

namespace ptxsim {
namespace {

constexpr int kRows = 16, kMostK = 32, kChunk = 16, kColumns = 256;

struct Shape {
  int n, k;
  Type element_a, element_b, accumulator;
  bool registers_a, negate_a, negate_b, turn_a, turn_b;
};

u64 packed(const Shape& s) {
  return static_cast<u64>(s.n) | static_cast<u64>(s.k) << 12 | static_cast<u64>(s.element_a) << 20 |
         static_cast<u64>(s.element_b) << 28 | static_cast<u64>(s.accumulator) << 36 |
         u64{s.registers_a} << 44 | u64{s.negate_a} << 45 | u64{s.negate_b} << 46 |
         u64{s.turn_a} << 47 | u64{s.turn_b} << 48;
}

Shape unpacked(u64 bits) {
  const auto flag = [&](int at) { return (bits >> at & 1) != 0; };
  const auto type = [&](int at) { return static_cast<Type>(bits >> at & 255); };
  return {static_cast<int>(bits & 4095),
          static_cast<int>(bits >> 12 & 255),
          type(20),
          type(28),
          type(36),
          flag(44),
          flag(45),
          flag(46),
          flag(47),
          flag(48)};
}

void widen(Type type, const u8* from, int count, float* to) {
  for (int i = 0; i < count; ++i) {
    u16 half = 0;
    u32 word = 0;
    switch (type) {
      case Type::bf16:
      case Type::f16:
        std::memcpy(&half, from + 2 * i, 2);
        to[i] = type == Type::bf16 ? from_bf16(half) : from_f16(half);
        break;
      case Type::tf32:
        std::memcpy(&word, from + 4 * i, 4);
        to[i] = float_of(word & ~0x1fffu);
        break;
      case Type::e4m3: to[i] = from_f8<3>(from[i]); break;
      case Type::e5m2: to[i] = from_f8<2>(from[i]); break;
      case Type::s8: to[i] = static_cast<float>(static_cast<s8>(from[i])); break;
      default: to[i] = static_cast<float>(from[i]); break;
    }
  }
}

// Where a matrix lies, by its descriptor. In 16-byte units (8 rows or elements along the major
// dimension of 128, 64 or 32 bytes), as CUTLASS describes the canonical layouts.
struct Layout {
  u32 start, leading, stride;
  int swizzle;  // 0: none; spans of 16 << swizzle bytes
  bool turned;  // the rows' index is contiguous, not k

  Layout(u64 descriptor, bool turn)
      : start(static_cast<u32>(descriptor & 0x3fff) << 4),
        leading(static_cast<u32>(descriptor >> 16 & 0x3fff) << 4),
        stride(static_cast<u32>(descriptor >> 32 & 0x3fff) << 4),
        turned(turn) {
    constexpr int kSwizzles[] = {0, 3, 2, 1};
    swizzle = kSwizzles[descriptor >> 62];
  }

  // The chunk of 16 bytes that holds, along k, bytes 16 c .. of row r; or, turned, elements 8 c ..
  // of the rows' index at k = r.
  u32 chunk(u32 r, u32 c) const {
    u32 at = start;
    const u32 units = 1u << swizzle;
    if (!turned)
      at += r / 8 * stride + (swizzle ? r % 8 * (16 * units) + c * 16 : r % 8 * 16 + c * leading);
    else if (swizzle)
      at += c % units * 16 + c / units * leading + r % 8 * (16 * units) + r / 8 * stride;
    else
      at += c * stride + r % 8 * 16 + r / 8 * leading;
    const u32 mask = ((1u << swizzle) - 1) << 4;
    return at ^ ((at >> 3) & mask);
  }
};

class Reader {
 public:
  Reader(RunningWarp& issuer, u32 lane) : w_(issuer), lane_(lane) {
    engine_ = engine_for(issuer, lane, kMatrixAgent + issuer.index / kWarpgroup);
  }

  // to[row * row_step + i * k_step] for `rows` rows from `first`
  void read(const Layout& layout, Type type, int first, int rows, int k, float* to, int row_step,
            int k_step) {
    const int per_chunk = kChunk / size_of(type == Type::tf32 ? Type::b32 : type);
    float values[kChunk];
    const int outer = layout.turned ? k : rows, inner = layout.turned ? rows : k;
    for (int o = 0; o < outer; ++o)
      for (int i = 0; i < inner; i += per_chunk) {
        const int row = layout.turned ? o : first + o;
        const int at = layout.turned ? first + i : i;
        widen(type, chunk(layout.chunk(static_cast<u32>(row), static_cast<u32>(at / per_chunk))),
              per_chunk, values);
        for (int e = 0; e < per_chunk; ++e) {
          const int r = layout.turned ? i + e : o, kk = layout.turned ? o : i + e;
          to[r * row_step + kk * k_step] = values[e];
        }
      }
  }

 private:
  const u8* chunk(u32 offset) {
    static constexpr u8 kNothing[kChunk] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (!check_shared_range(*engine_, lane_, *w_.block, offset, kChunk, kRead, engine_->agent))
      return kNothing;
    check_proxy(w_, lane_, *w_.block, offset, kChunk);
    return w_.block->shared.data() + offset;
  }

  RunningWarp& w_;
  u32 lane_;
  std::shared_ptr<RunningWarp> engine_;
};

void read_registers(RunningWarp& w, const s32* list, Type type, int k, float* a) {
  const int per_word = 4 / size_of(type);
  for (int r = 0; r < 4; ++r)
    for (int lane = 0; lane < kLanes; ++lane) {
      float values[4];
      widen(type, reg<u8>(w, list[r]) + 4 * lane, per_word, values);
      const int row = lane / 4 + 8 * (r & 1), first = (r >> 1) * k / 2 + lane % 4 * per_word;
      for (int e = 0; e < per_word; ++e) a[row * k + first + e] = values[e];
    }
}

void add(RunningWarp& w, const Shape& shape, const s32* list, bool keep, float sign,
         const float* products) {
  const auto product = [&](int j, int q, int lane) {
    return sign * products[((q >> 1) * 8 + lane / 4) * kWideRow + j * 8 + lane % 4 * 2 + (q & 1)];
  };
  for (int j = 0; j < shape.n / 8; ++j)
    for (int q = 0; q < 4; ++q)
      for (int lane = 0; lane < kLanes; ++lane) {
        const float p = product(j, q, lane);
        if (shape.accumulator == Type::f32) {
          float& d = reg<float>(w, list[4 * j + q])[lane];
          d = keep ? d + p : p;
        } else if (shape.accumulator == Type::s32) {
          s32& d = reg<s32>(w, list[4 * j + q])[lane];
          d = (keep ? d : 0) + static_cast<s32>(p);
        } else {
          u16& d = reg<u16>(w, list[2 * j + q / 2])[2 * lane + q % 2];
          d = to_f16((keep ? from_f16(d) : 0.f) + p);
        }
      }
}

u8& use_of(RunningWarp& w, s32 offset) {
  const size_t i = static_cast<size_t>(offset) / 64;
  if (i >= w.in_flight.size()) w.in_flight.resize(i + 1);
  return w.in_flight[i];
}

void mark_in_flight(RunningWarp& w, const MatrixGroup& group) {
  for (const MatrixGroup::Registers& r : group.registers)
    use_of(w, r.offset) |= r.accumulator ? kAccumulates : kReads;
}

// A warp's first wgmma, and one whose registers were used since the last, follow a wgmma.fence.
void check_fence(RunningWarp& w, u32 lane, const MatrixGroup& group) {
  bool ordered = w.matrix_fenced;
  for (const MatrixGroup::Registers& r : group.registers)
    ordered = ordered && !(use_of(w, r.offset) & kTouched);
  if (ordered) return;
  w.block->launch().report(w, lane, "no fence",
                           "uses registers with no wgmma.fence since others used them");
  w.matrix_fenced = true;  // once is enough
}

// What was done before counts as ordered; what is under way is watched on.
void fence_registers(Warp& warp, const Instruction&, u32) {
  RunningWarp& w = running(warp);
  w.matrix_fenced = true;
  w.in_flight.clear();
  for (const MatrixGroup& group : w.matrix_groups) mark_in_flight(w, group);
  mark_in_flight(w, w.matrix_open);
}

// list: accumulators, A's registers or descriptor, B's descriptor; reg[1]: predicate, add to D
void multiply(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  const Shape shape = unpacked(static_cast<u64>(in.imm));
  const int accumulators = shape.accumulator == Type::f16 ? shape.n / 4 : shape.n / 2;
  const s32* d = w.lists + in.list;
  const s32* a = d + accumulators;
  const s32* b = a + (shape.registers_a ? 4 : 1);
  const u32 lane = static_cast<u32>(__builtin_ctz(mask));
  alignas(64) thread_local float left[kRows * kMostK], right[kMostK * kColumns],
      result[kRows * kColumns];
  Reader reader(w, lane);
  if (shape.registers_a)
    read_registers(w, a, shape.element_a, shape.k, left);
  else
    reader.read(Layout(reg<u64>(w, a[0])[lane], shape.turn_a), shape.element_a,
                static_cast<int>(w.index % kWarpgroup) * kRows, kRows, shape.k, left, shape.k, 1);
  reader.read(Layout(reg<u64>(w, b[0])[lane], shape.turn_b), shape.element_b, 0, shape.n, shape.k,
              right, 1, kWideRow);
  lane_handlers().products(left, right, result, shape.k, shape.n);
  const bool keep = predicate(w, in.reg[1]) >> lane & 1;
  add(w, shape, d, keep, shape.negate_a != shape.negate_b ? -1.f : 1.f, result);
  for (int i = 0; i < accumulators; ++i) w.matrix_open.registers.push_back({d[i], true});
  if (shape.registers_a)
    for (int i = 0; i < 4; ++i) w.matrix_open.registers.push_back({a[i], false});
  w.matrix_open.time = w.block->cluster->time;
  ++w.block->cluster->time;
  check_fence(w, lane, w.matrix_open);
  mark_in_flight(w, w.matrix_open);
}

void commit(Warp& warp, const Instruction&, u32) {
  RunningWarp& w = running(warp);
  w.matrix_groups.push_back(std::move(w.matrix_open));
  w.matrix_open = {};
}

// imm: groups that may stay under way
void wait(Warp& warp, const Instruction& in, u32) {
  RunningWarp& w = running(warp);
  Known& unit = w.clock.agents[agent_of(*w.block, kMatrixAgent + w.index / kWarpgroup)];
  for (u8& use : w.in_flight) use &= kAccumulated | kWasRead | kTouched;
  while (static_cast<s64>(w.matrix_groups.size()) > in.imm) {
    const MatrixGroup& done = w.matrix_groups.front();
    unit.all = std::max(unit.all, done.time);
    for (const MatrixGroup::Registers& r : done.registers)
      use_of(w, r.offset) |= r.accumulator ? kAccumulated : kWasRead;
    w.matrix_groups.pop_front();
  }
  for (const MatrixGroup& group : w.matrix_groups) mark_in_flight(w, group);
  mark_in_flight(w, w.matrix_open);
}

int dimension(const std::string& shape, char which) {
  return std::atoi(shape.c_str() + shape.find(which) + 1);
}

}  // namespace

void decode_wgmma(Decoder& d, const Statement& s) {
  Instruction in;
  in.flow = Flow::warp_sync;
  const std::string& what = s.parts[1];
  if (what == "fence" || what == "commit_group" || what == "wait_group") {
    in.run = what == "fence" ? fence_registers : what == "commit_group" ? commit : wait;
    if (what == "wait_group") in.imm = d.immediate(s.operands[0]);
    return d.emit(in);
  }
  if (what != "mma_async" || s.has("sp") || s.has("satfinite") || s.parts.size() < 8)
    d.unsupported();
  const std::string& dims = s.parts[4];
  Shape shape{};
  shape.n = dimension(dims, 'n');
  shape.k = dimension(dims, 'k');
  shape.accumulator = parse_type(s.parts[5]);
  shape.element_a = parse_type(s.parts[6]);
  shape.element_b = parse_type(s.parts[7]);
  if (shape.k > kMostK || shape.n > kColumns || shape.n % 8) d.unsupported();
  shape.registers_a = s.operands[1].kind == Operand::Kind::list;
  const auto number = [&](size_t i) {
    return i < s.operands.size() ? d.immediate(s.operands[i]) : 0;
  };
  if (s.operands.size() > 5) {
    shape.negate_a = number(4) == -1;
    shape.negate_b = number(5) == -1;
  }
  shape.turn_a = !shape.registers_a && number(6) == 1;
  shape.turn_b = number(shape.registers_a ? 6 : 7) == 1;
  const Type result = shape.accumulator == Type::s32 ? Type::b32 : Type::f32;
  std::vector<s32> list = d.write_all(s.operands[0], result);
  const size_t wanted =
      static_cast<size_t>(shape.accumulator == Type::f16 ? shape.n / 4 : shape.n / 2);
  if (list.size() != wanted) d.unsupported("number of accumulators");
  for (const s32 offset : d.read_all(s.operands[1], shape.registers_a ? Type::b32 : Type::b64))
    list.push_back(offset);
  list.push_back(d.read(s.operands[2], Type::b64));
  in.list = d.list(list);
  in.reg[1] = d.read_predicate(s.operands[3]);
  in.imm = static_cast<s64>(packed(shape));
  in.run = multiply;
  d.emit(in);
}

}  // namespace ptxsim
