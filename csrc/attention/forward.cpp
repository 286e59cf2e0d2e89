// The forward pass: tiles of rows over packed keys and values, whatever the call was.
#include <omp.h>

#include "attention/pack.h"
#include "attention/softmax.h"
#include "runtime/parallel.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 18;  // multiply-adds below which one thread is faster
// Blocks that all rows of a tile visit before the next ones: their keys and values stay in L2.
constexpr int64_t kPassBlocks = 8;
constexpr int64_t kPassGroups = kPassBlocks * kBlockGroups;
constexpr int64_t kPassKeys = kPassBlocks * kBlockKeys;
// Rows of scores are not a power of two apart, or they would alias in the store buffer.
constexpr int64_t kScoreStride = kPassKeys + 16, kWeightStride = kPassKeys + 32;

// Up to kTileRows rows that share their keys' addresses.
struct Slice {
  int row, rows;
  int32_t tail;
  bool seen;                 // this run of keys has scores
  bool merged;               // earlier runs are in total
  int64_t lo, hi;            // keys that some row sees ...
  int64_t full_lo, full_hi;  // ... and that all rows see
  SoftmaxState state;
};

template <class T>
struct Tile {
  const AttentionProblem* p;
  const AttentionSequence* sequence;
  const T* keys;  // kv head's first block
  const T* values;
  int64_t kv_head;
  int slice_count;
  Slice* slices;
  RowRange* ranges;  // [rows] from here on
  RowTotal* total;
  T* q;
  float* o;
  float* total_o;
  float* scores;  // [kTileRows] of one slice's pass
  T* weights;
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

template <class T>
int64_t carve(Tile<T>& tile, const KvLayout& layout, int64_t rows, char* base) {
  Carver c{base};
  tile.slices = c.take<Slice>(rows);
  tile.ranges = c.take<RowRange>(rows);
  tile.total = c.take<RowTotal>(rows);
  tile.q = c.take<T>(rows * layout.padded_qk);
  tile.o = c.take<float>(rows * layout.padded_v);
  tile.total_o = c.take<float>(rows * layout.padded_v);
  tile.scores = c.take<float>(kTileRows * kScoreStride);
  tile.weights = c.take<T>(kTileRows * kWeightStride);
  return c.used;
}

template <class T>
int64_t scratch_bytes(const KvLayout& layout, int64_t rows) {
  Tile<T> tile;
  return carve(tile, layout, rows, nullptr);
}

RowRange row_range(const AttentionProblem& p, const AttentionSequence& s, int64_t i) {
  const int64_t position = s.position ? s.position[i] : s.first_position + i;
  RowRange range{0, s.keys};
  if (p.causal && position + 1 < range.hi) range.hi = position + 1;
  if (p.window <= position) range.lo = position - p.window + 1;
  if (range.hi <= range.lo) range.hi = range.lo = 0;
  return range;
}

void widen(Slice& slice, const RowRange& range) {
  if (range.hi > range.lo) {
    if (slice.hi == slice.lo || range.lo < slice.lo) slice.lo = range.lo;
    if (range.hi > slice.hi) slice.hi = range.hi;
  }
  if (range.lo > slice.full_lo) slice.full_lo = range.lo;
  if (range.hi < slice.full_hi) slice.full_hi = range.hi;
}

// Copies the queries of the job's rows and cuts the rows into slices.
template <class T>
void load_rows(Tile<T>& tile, const AttentionJob& job) {
  const AttentionProblem& p = *tile.p;
  const AttentionSequence& s = *tile.sequence;
  const int64_t group = p.q_heads / p.kv_heads, dim = p.layout.dim_qk;
  tile.slice_count = 0;
  Slice* slice = nullptr;
  int row = 0;
  for (int64_t i = job.first_token; i < job.first_token + job.tokens; ++i) {
    const RowRange range = row_range(p, s, i);
    const int32_t tail = s.tail_of ? s.tail_of[i] : 0;
    const T* q = static_cast<const T*>(s.q) + (s.order ? s.order[i] : i) * p.q_token_stride +
                 tile.kv_head * group * p.q_head_stride;
    for (int64_t h = 0; h < group; ++h, ++row) {
      if (!slice || slice->rows == kTileRows || slice->tail != tail) {
        slice = tile.slices + tile.slice_count++;
        slice->row = row;
        slice->rows = 0;
        slice->tail = tail;
        slice->seen = slice->merged = false;
        slice->lo = slice->hi = slice->full_lo = 0;
        slice->full_hi = INT64_MAX;
      }
      ++slice->rows;
      widen(*slice, range);
      tile.ranges[row] = range;
      T* copy = tile.q + row * p.layout.padded_qk;
      std::memcpy(copy, q + h * p.q_head_stride, static_cast<size_t>(dim) * sizeof(T));
      if (p.layout.padded_qk > dim) copy[dim] = 0;
    }
  }
}

// Where the groups [first, end) of a slice lie.
template <class T>
void locate(const Tile<T>& tile, const Slice& slice, int64_t first, int64_t end, const T** keys,
            const T** values) {
  const KvLayout& layout = tile.p->layout;
  const KvSource& kv = tile.sequence->kv;
  for (int64_t g = first; g < end; ++g) {
    int64_t block = g / kBlockGroups;
    const T *block_keys = tile.keys, *block_values = tile.values;
    if (g >= kv.tail_group) {
      block += (slice.tail * tile.p->kv_heads + tile.kv_head) * kv.tail_blocks -
               kv.tail_group / kBlockGroups;
      block_keys = static_cast<const T*>(kv.tail_keys);
      block_values = static_cast<const T*>(kv.tail_values);
    } else if (kv.ring_blocks) {
      block %= kv.ring_blocks;
    }
    keys[g - first] = block_keys + block * layout.key_block + g % kBlockGroups * layout.key_group;
    values[g - first] =
        block_values + block * layout.value_block + g % kBlockGroups * layout.value_group;
  }
}

// Takes a slice over the blocks [begin, end).
template <class T>
void run_pass(Tile<T>& tile, Slice& slice, int64_t begin, int64_t end) {
  const AttentionProblem& p = *tile.p;
  int64_t first = slice.lo / kGroupKeys, last = (slice.hi + kGroupKeys - 1) / kGroupKeys;
  if (first < begin * kBlockGroups) first = begin * kBlockGroups;
  if (last > end * kBlockGroups) last = end * kBlockGroups;
  if (first >= last) return;
  const T* keys[kPassGroups];
  const T* values[kPassGroups];
  locate(tile, slice, first, last, keys, values);
  const T* q = tile.q + slice.row * p.layout.padded_qk;
  with_rows(slice.rows, [&]<int R>() {
    score_rows<T, R>(q, p.layout.padded_qk, keys, last - first, p.layout.padded_qk, tile.scores,
                     kScoreStride);
  });

  const bool first_run = !slice.seen;
  if (first_run) {
    for (int r = 0; r < slice.rows; ++r) slice.state.m[r] = kNoScore;
    std::memset(slice.state.l, 0, sizeof slice.state.l);
    slice.seen = true;
  }
  ValueBlock blocks[kPassBlocks];
  int count = 0;
  for (int64_t g = first; g < last;) {
    const int64_t next = g / kBlockGroups * kBlockGroups + kBlockGroups;
    ValueBlock& block = blocks[count++];
    block.first = static_cast<int>(g - first);
    block.groups = static_cast<int>((next < last ? next : last) - g);
    const int64_t position = g * kGroupKeys;
    const bool masked =
        position < slice.full_lo || position + block.groups * kGroupKeys > slice.full_hi;
    softmax_block(slice.rows, tile.scores, kScoreStride, p.scale * kLog2E, position, masked,
                  tile.ranges + slice.row, slice.state, block, tile.weights, kWeightStride);
    g = next;
  }
  float* o = tile.o + slice.row * p.layout.padded_v;
  with_rows(slice.rows, [&]<int R>() {
    value_rows<T, R>(tile.weights, kWeightStride, values, p.layout, blocks, count, first_run, o);
  });
}

// The run of one row that has just ended.
RowTotal run_of(const Slice& slice, int r) {
  return {slice.state.m[r], reduce_add(f32x16::load(slice.state.l[r]))};
}

template <class T>
void end_segment(Tile<T>& tile) {
  const int64_t dims = tile.p->layout.padded_v;
  for (int n = 0; n < tile.slice_count; ++n) {
    Slice& slice = tile.slices[n];
    if (!slice.seen) continue;
    for (int r = 0; r < slice.rows; ++r) {
      const int row = slice.row + r;
      if (slice.merged) {
        merge_run(tile.total[row], tile.total_o + row * dims, run_of(slice, r), tile.o + row * dims,
                  dims);
      } else {
        tile.total[row] = run_of(slice, r);
        std::memcpy(tile.total_o + row * dims, tile.o + row * dims,
                    static_cast<size_t>(dims) * sizeof(float));
      }
    }
    slice.seen = false;
    slice.merged = true;
  }
}

// Normalises row `row` of the job and writes it where the call wants it.
template <class T>
void write_row(const AttentionProblem& p, const AttentionSequence& s, const AttentionJob& job,
               int row, const RowTotal& total, const float* o) {
  const int64_t group = p.q_heads / p.kv_heads, i = job.first_token + row / group;
  const int64_t token = s.order ? s.order[i] : i, head = job.kv_head * group + row % group;
  finish_row(total, o, p.sink ? p.sink + head : nullptr, p.layout.dim_v,
             static_cast<T*>(s.out) + (token * p.q_heads + head) * p.layout.dim_v,
             s.lse ? s.lse + head * p.lse_head_stride + token : nullptr);
}

template <class T>
void write_tile(Tile<T>& tile, const AttentionJob& job) {
  const int64_t dims = tile.p->layout.padded_v;
  for (int n = 0; n < tile.slice_count; ++n) {
    const Slice& slice = tile.slices[n];
    for (int r = 0; r < slice.rows; ++r) {
      const int row = slice.row + r;
      RowTotal total{kNoScore, 0.f};
      const float* o = tile.total_o + row * dims;
      if (slice.merged)
        total = tile.total[row];
      else
        std::memset(tile.total_o + row * dims, 0, static_cast<size_t>(dims) * sizeof(float));
      if (slice.seen) {
        if (slice.merged) {
          merge_run(total, tile.total_o + row * dims, run_of(slice, r), tile.o + row * dims, dims);
        } else {
          total = run_of(slice, r);
          o = tile.o + row * dims;
        }
      }
      write_row<T>(*tile.p, *tile.sequence, job, row, total, o);
    }
  }
}

int64_t partial_stride(const KvLayout& layout) { return layout.padded_v + 16; }

template <class T>
void write_partial(const Tile<T>& tile, const AttentionJob& job) {
  const int64_t dims = tile.p->layout.padded_v, stride = partial_stride(tile.p->layout);
  for (int n = 0; n < tile.slice_count; ++n) {
    const Slice& slice = tile.slices[n];
    for (int r = 0; r < slice.rows; ++r) {
      float* partial = tile.p->partial + (job.partial + slice.row + r) * stride;
      const RowTotal run = slice.seen ? run_of(slice, r) : RowTotal{kNoScore, 0.f};
      partial[dims] = run.m;
      partial[dims + 1] = run.l;
      const size_t bytes = static_cast<size_t>(dims) * sizeof(float);
      if (slice.seen)
        std::memcpy(partial, tile.o + (slice.row + r) * dims, bytes);
      else
        std::memset(partial, 0, bytes);
    }
  }
}

template <class T>
void run_job(const AttentionProblem& p, const AttentionJob& job) {
  Tile<T> tile;
  carve(tile, p.layout, p.tile_rows, p.scratch + omp_get_thread_num() * p.scratch_bytes);
  const AttentionSequence& s = p.sequences[job.sequence];
  tile.p = &p;
  tile.sequence = &s;
  tile.kv_head = job.kv_head;
  const int64_t first_block = job.kv_head * s.kv.head_blocks;
  tile.keys = static_cast<const T*>(s.kv.keys) + first_block * p.layout.key_block;
  tile.values = static_cast<const T*>(s.kv.values) + first_block * p.layout.value_block;
  load_rows(tile, job);

  int64_t lo = INT64_MAX, hi = 0;
  for (int n = 0; n < tile.slice_count; ++n) {
    const Slice& slice = tile.slices[n];
    if (slice.hi == slice.lo) continue;
    if (slice.lo < lo) lo = slice.lo;
    if (slice.hi > hi) hi = slice.hi;
  }
  int64_t block = lo == INT64_MAX ? 0 : lo / kBlockKeys, end = blocks_for(hi);
  if (job.segment >= 0) {
    if (block < job.segment * kSegmentBlocks) block = job.segment * kSegmentBlocks;
    if (end > (job.segment + 1) * kSegmentBlocks) end = (job.segment + 1) * kSegmentBlocks;
  }
  while (block < end) {
    const int64_t segment_end = (block / kSegmentBlocks + 1) * kSegmentBlocks;
    int64_t pass_end = block + kPassBlocks < end ? block + kPassBlocks : end;
    if (pass_end > segment_end) pass_end = segment_end;
    for (int n = 0; n < tile.slice_count; ++n) run_pass(tile, tile.slices[n], block, pass_end);
    block = pass_end;
    if (block == segment_end && block < end) end_segment(tile);
  }
  if (job.segment >= 0)
    write_partial(tile, job);
  else
    write_tile(tile, job);
}

template <class T>
void merge_job(const AttentionProblem& p, const AttentionJob& job) {
  const int64_t dims = p.layout.padded_v, stride = partial_stride(p.layout);
  const int64_t rows = job.tokens * (p.q_heads / p.kv_heads);
  for (int64_t row = 0; row < rows; ++row) {
    float* o = p.partial + (job.partial + row) * stride;
    RowTotal total{o[dims], o[dims + 1]};
    for (int64_t s = 1; s < job.segments; ++s) {
      const float* part = o + s * rows * stride;
      merge_run(total, o, {part[dims], part[dims + 1]}, part, dims);
    }
    write_row<T>(p, p.sequences[job.sequence], job, static_cast<int>(row), total, o);
  }
}

void pack_task_block(const PackProblem& p, const PackTask& t, int64_t head, int64_t block, float) {
  pack_block_f32(p, t, head, block);
}
void pack_task_block(const PackProblem& p, const PackTask& t, int64_t head, int64_t block, bf16) {
  pack_block_bf16(p, t, head, block);
}

template <class T>
void pack_tail(const AttentionProblem& p, const AttentionJob& job) {
  const AttentionSequence& s = p.sequences[job.sequence];
  for (int64_t t = s.first_task; t < s.first_task + s.task_count; ++t) {
    const PackTask& task = p.pack->tasks[t];
    const int64_t end = task.first_position + task.tokens;
    for (int64_t b = task.first_position / kBlockKeys; b * kBlockKeys < end; ++b)
      pack_task_block(*p.pack, task, job.kv_head, b, T{});
  }
}

template <class T>
void attend(const AttentionProblem& p) {
  int64_t work = 0;
  for (int64_t n = 0; n < p.job_count; ++n) {
    const AttentionJob& job = p.jobs[n];
    int64_t keys = p.sequences[job.sequence].keys;
    if (keys > p.window) keys = p.window;
    work += job.tokens * keys;
  }
  work *= p.q_heads / p.kv_heads * (p.layout.padded_qk + p.layout.padded_v);
  if (p.pack && !p.pack_in_job) (sizeof(T) == 4 ? pack_f32 : pack_bf16)(p.pack, 1);
  parallel_for(p.job_count, work, kGrain, [&](int64_t n) {
    if (p.pack && p.pack_in_job) pack_tail<T>(p, p.jobs[n]);
    run_job<T>(p, p.jobs[n]);
  });
  parallel_for(p.merge_count, work, kGrain, [&](int64_t n) { merge_job<T>(p, p.merges[n]); });
}

}  // namespace

extern const AttentionKernels attention_kernels = {
    attend<float>, attend<bf16>, pack_f32, pack_bf16, scratch_bytes<float>, scratch_bytes<bf16>,
};

}  // namespace mn::MN_ISA
