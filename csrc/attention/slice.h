// A job's rows, cut into slices of a register tile's height, and the memory they work in.
#pragma once

#include "attention/problem.h"
#include "attention/softmax.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kPassGroups = kPassBlocks * kBlockGroups;
constexpr int64_t kPassKeys = kPassBlocks * kBlockKeys;
// Rows of scores are not a power of two apart, or they would alias in the store buffer.
constexpr int64_t kScoreStride = kPassKeys + 16, kWeightStride = kPassKeys + 32;

// Up to kTileRows rows that share their keys' addresses.
struct Slice {
  int row, rows;
  int32_t tail;
  bool seen;                 // this run has scores
  bool merged;               // earlier runs are in total
  int64_t lo, hi;            // keys that some row sees ...
  int64_t full_lo, full_hi;  // ... and that all rows see
  const void* q;
  int64_t q_stride;
  Run run;
  Total total;
};

template <class K>
struct Tile {
  const AttentionProblem* p;
  const AttentionSequence* sequence;
  const AttentionJob* job;
  const K* keys;  // kv head's first block
  const K* values;
  int slice_count;
  Slice* slices;
  RowRange* ranges;  // [rows] from here on
  RowOf<K>* q;       // copies of queries that are not evenly spaced or need padding
  float* o;
  float* total_o;
  float* scores;  // [kTileRows] of one slice's pass
  RowOf<K>* weights;
};

// Hands out consecutive 64-byte aligned pieces; with a null base it only counts.
struct Carver {
  char* base;
  int64_t used = 0;
  template <class U>
  U* take(int64_t count) {
    U* piece = reinterpret_cast<U*>(base + used);
    used += (count * static_cast<int64_t>(sizeof(U)) + 63) / 64 * 64;
    return piece;
  }
};

template <class K>
int64_t carve(Tile<K>& tile, const KvLayout& layout, int64_t rows, char* base) {
  Carver c{base};
  tile.slices = c.take<Slice>(rows);
  tile.ranges = c.take<RowRange>(rows);
  tile.q = c.take<RowOf<K>>(rows * layout.padded_qk);
  tile.o = c.take<float>(rows * layout.padded_v);
  tile.total_o = c.take<float>(rows * layout.padded_v);
  tile.scores = c.take<float>(kTileRows * kScoreStride);
  tile.weights = c.take<RowOf<K>>(kTileRows * kWeightStride);
  return c.used;
}

RowRange row_range(const AttentionProblem& p, const AttentionSequence& s, int64_t i) {
  const int64_t position = s.position ? s.position[i] : s.first_position + i;
  RowRange range{0, s.keys};
  if (p.causal && position + 1 < range.hi) range.hi = position + 1;
  if (p.window <= position) range.lo = position - p.window + 1;
  if (range.hi <= range.lo) range.hi = range.lo = 0;
  return range;
}

// The token and the query head, within the group, of a job's row and of those that follow.
struct RowCursor {
  int64_t group, token, head;
  RowCursor(const AttentionJob& job, int64_t group, int row)
      : group(group), token(job.first_token + row / group), head(row % group) {}
  MN_INLINE void next() {
    if (++head < group) return;
    head = 0;
    ++token;
  }
};

// Query head `h` of the job's kv head and its token i.
template <class T>
const T* query(const AttentionProblem& p, const AttentionJob& job, int64_t i, int64_t h) {
  const AttentionSequence& s = p.sequences[job.sequence];
  const int64_t group = p.q_heads / p.kv_heads;
  return static_cast<const T*>(s.q) + (s.order ? s.order[i] : i) * p.q_token_stride +
         (job.kv_head * group + h) * p.q_head_stride;
}

// Where head `h` of token i of the job goes.
template <class T>
T* output(const AttentionProblem& p, const AttentionJob& job, int64_t i, int64_t h) {
  const AttentionSequence& s = p.sequences[job.sequence];
  const int64_t group = p.q_heads / p.kv_heads;
  return static_cast<T*>(s.out) +
         ((s.order ? s.order[i] : i) * p.q_heads + job.kv_head * group + h) * p.layout.dim_v;
}

void widen(Slice& slice, const RowRange& range) {
  if (range.hi > range.lo) {
    if (slice.hi == slice.lo || range.lo < slice.lo) slice.lo = range.lo;
    if (range.hi > slice.hi) slice.hi = range.hi;
  }
  if (range.lo > slice.full_lo) slice.full_lo = range.lo;
  if (range.hi < slice.full_hi) slice.full_hi = range.hi;
}

void open(Slice& slice, int row, int32_t tail) {
  slice.row = row;
  slice.rows = 0;
  slice.tail = tail;
  slice.seen = slice.merged = false;
  slice.lo = slice.hi = slice.full_lo = 0;
  slice.full_hi = INT64_MAX;
}

// Points the slice at its queries where they are, or at copies in the tile.
template <class K>
void place_queries(Tile<K>& tile, Slice& slice, const RowOf<K>* const* rows) {
  using T = RowOf<K>;
  const KvLayout& layout = tile.p->layout;
  const int64_t stride = slice.rows > 1 ? rows[1] - rows[0] : layout.padded_qk;
  bool even = layout.padded_qk == layout.dim_qk;
  for (int r = 1; r < slice.rows; ++r) even = even && rows[r] - rows[r - 1] == stride;
  slice.q = rows[0];
  slice.q_stride = stride;
  if (even) return;
  T* copy = tile.q + slice.row * layout.padded_qk;
  slice.q = copy;
  slice.q_stride = layout.padded_qk;
  for (int r = 0; r < slice.rows; ++r, copy += layout.padded_qk) {
    std::memcpy(copy, rows[r], static_cast<size_t>(layout.dim_qk) * sizeof(T));
    if (layout.padded_qk > layout.dim_qk) copy[layout.dim_qk] = 0;
  }
}

// Cuts the job's rows into slices; tail_of keeps nodes of different tails apart.
template <class K>
void load_rows(Tile<K>& tile) {
  using T = RowOf<K>;
  const AttentionProblem& p = *tile.p;
  const AttentionSequence& s = *tile.sequence;
  const AttentionJob& job = *tile.job;
  const int64_t group = p.q_heads / p.kv_heads;
  tile.slice_count = 0;
  Slice* slice = nullptr;
  const T* queries[kTileRows];
  int row = 0;
  for (int64_t i = job.first_token; i < job.first_token + job.tokens; ++i) {
    const RowRange range = row_range(p, s, i);
    const int32_t tail = s.tail_of ? s.tail_of[i] : 0;
    const T* q = query<T>(p, job, i, 0);
    for (int64_t h = 0; h < group; ++h, ++row, q += p.q_head_stride) {
      const bool next = !slice || slice->rows == kTileRows || slice->tail != tail;
      if (next) {
        if (slice) place_queries(tile, *slice, queries);
        slice = tile.slices + tile.slice_count++;
        open(*slice, row, tail);
      }
      if (next || h == 0) widen(*slice, range);
      queries[slice->rows++] = q;
      tile.ranges[row] = range;
    }
  }
  if (slice) place_queries(tile, *slice, queries);
}

// Where the groups of a pass lie.
template <class K>
struct Groups {
  const K* keys[kPassGroups];
  const K* values[kPassGroups];
  const float* key_scales[kPassGroups];  // of storage types that have them
  const float* value_scales[kPassGroups];
};

// The groups [first, end) of a slice.
template <class K>
void locate(const Tile<K>& tile, const Slice& slice, int64_t first, int64_t end,
            Groups<K>& groups) {
  const KvLayout& layout = tile.p->layout;
  const KvSource& kv = tile.sequence->kv;
  for (int64_t g = first; g < end;) {
    int64_t block = g / kBlockGroups, within = g % kBlockGroups;
    int64_t next = g - within + kBlockGroups;
    if (next > end) next = end;
    const K *keys = tile.keys, *values = tile.values;
    if (g >= kv.tail_group) {
      block += (slice.tail * tile.p->kv_heads + tile.job->kv_head) * kv.tail_blocks -
               kv.tail_group / kBlockGroups;
      keys = static_cast<const K*>(kv.tail_keys);
      values = static_cast<const K*>(kv.tail_values);
    } else {
      if (next > kv.tail_group) next = kv.tail_group;
      if (kv.ring_blocks) block %= kv.ring_blocks;
    }
    keys += block * layout.key_block;
    values += block * layout.value_block;
    for (; g < next; ++g, ++within) {
      const int64_t n = g - first;
      groups.keys[n] = keys + within * layout.key_group;
      groups.values[n] = values + within * layout.value_group;
      if constexpr (Stored<K>::kScaled) {
        groups.key_scales[n] =
            reinterpret_cast<const float*>(keys + layout.key_scales) + within * kGroupKeys;
        groups.value_scales[n] =
            reinterpret_cast<const float*>(values + layout.value_scales) + within * kGroupKeys;
      }
    }
  }
}

}  // namespace
}  // namespace mn::MN_ISA
