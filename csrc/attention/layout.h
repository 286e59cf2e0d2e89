// The packed form of keys and values: what caches hold, what a prefill packs once per call and what
// the kernels read.
//
// Positions are grouped by 16 (one vector of scores) and by 64 (one step of the online softmax),
// always at absolute multiples, so the lane of a key follows from its position alone.
//
//   keys of one block    bf16  [4 groups][Dqk/2][16 keys][2]     float32  [4 groups][Dqk][16 keys]
//   values of one block  bf16  [Dv/16][32 pairs][16 dims][2 keys]  float32  [64 keys][Dv]
//
// Dqk is padded to a pair but in float32, Dv to 16; the padding is zero. A tensor of blocks is
// [rows, kv heads, blocks, elements of one block].
//
// The 8-bit formats follow bf16, each [16][2] being [2][16] instead, and end every block with the
// float32 scales of its 64 keys (or values); see quantise.h. Activations are bf16 then.
#pragma once

#include <cstdint>

namespace mn {

inline constexpr int64_t kGroupKeys = 16;
inline constexpr int64_t kBlockKeys = 64;
inline constexpr int64_t kBlockGroups = kBlockKeys / kGroupKeys;
// A run of the online softmax; runs are merged in order, which is also how a decode step is split.
inline constexpr int64_t kSegmentKeys = 2048;
inline constexpr int64_t kSegmentBlocks = kSegmentKeys / kBlockKeys;

enum class KvFormat : uint8_t { f32, bf16, int8, e4m3 };
inline constexpr int kKvFormats = 4;

inline bool has_scales(KvFormat format) {
  return format == KvFormat::int8 || format == KvFormat::e4m3;
}
inline int64_t size_of(KvFormat format) {
  return format == KvFormat::f32 ? 4 : has_scales(format) ? 1 : 2;
}

// Sizes in elements of the storage type.
struct KvLayout {
  int64_t dim_qk, dim_v;  // as the caller sees them
  int64_t padded_qk, padded_v;
  int64_t key_group;    // one group of 16 keys
  int64_t key_block;    // one block of keys
  int64_t key_scales;   // from a block's start to its scales, if there are any
  int64_t value_group;  // from a group's values to the next group's
  int64_t value_block;
  int64_t value_scales;
  int64_t value_panel;  // from 16 dims to the next 16
  int64_t value_step;   // from one step over keys (a pair in bf16) to the next
};

inline KvLayout kv_layout(int64_t dim_qk, int64_t dim_v, KvFormat format) {
  const bool pairs = format != KvFormat::f32;
  const int64_t scales = has_scales(format) ? kBlockKeys * 4 : 0;
  KvLayout l{};
  l.dim_qk = dim_qk;
  l.dim_v = dim_v;
  l.padded_qk = pairs ? (dim_qk + 1) / 2 * 2 : dim_qk;
  l.padded_v = (dim_v + 15) / 16 * 16;
  l.key_group = l.padded_qk * kGroupKeys;
  l.key_scales = l.padded_qk * kBlockKeys;
  l.key_block = l.key_scales + scales;
  l.value_scales = l.padded_v * kBlockKeys;
  l.value_block = l.value_scales + scales;
  l.value_panel = pairs ? 16 * kBlockKeys : 16;
  l.value_step = pairs ? 32 : l.padded_v;
  l.value_group = l.value_step * (pairs ? kGroupKeys / 2 : kGroupKeys);
  return l;
}

inline int64_t blocks_for(int64_t keys) { return (keys + kBlockKeys - 1) / kBlockKeys; }

}  // namespace mn
