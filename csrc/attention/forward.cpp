// The forward pass: tiles of rows over packed keys and values, whatever the call was.
#include <omp.h>

#include "attention/blocks.h"
#include "attention/pack.h"
#include "runtime/parallel.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 18;  // multiply-adds below which one thread is faster

// Takes a slice over the blocks [begin, end).
template <class K>
void run_pass(Tile<K>& tile, Slice& slice, int64_t begin, int64_t end, Ahead& ahead) {
  const AttentionProblem& p = *tile.p;
  int64_t first = slice.lo / kGroupKeys, last = (slice.hi + kGroupKeys - 1) / kGroupKeys;
  if (first < begin * kBlockGroups) first = begin * kBlockGroups;
  if (last > end * kBlockGroups) last = end * kBlockGroups;
  if (first >= last) return;
  Groups<K> groups;
  locate(tile, slice, first, last, groups);
  with_rows(slice.rows, [&]<int R>() {
    score_rows<K, R>(static_cast<const RowOf<K>*>(slice.q), slice.q_stride, groups.keys,
                     last - first, p.layout.padded_qk, tile.scores, kScoreStride, ahead);
  });

  ValueBlock blocks[kPassBlocks];
  ValuePass<K> pass{};
  pass.values = groups.values;
  pass.blocks = blocks;
  pass.groups = static_cast<int>(last - first);
  pass.lead = slice.lo > first * kGroupKeys ? (slice.lo - first * kGroupKeys) & ~1 : 0;
  pass.trail = static_cast<int>(kGroupKeys);
  if (slice.hi < last * kGroupKeys) pass.trail = (slice.hi - (last - 1) * kGroupKeys + 1) & ~1;
  pass.fresh = !slice.seen;
  if (pass.fresh) start(slice.run);
  slice.seen = true;
  for (int64_t g = first; g < last;) {
    const int64_t next = g / kBlockGroups * kBlockGroups + kBlockGroups;
    ValueBlock& block = blocks[pass.block_count++];
    block.first = static_cast<int>(g - first);
    block.groups = static_cast<int>((next < last ? next : last) - g);
    g = next;
  }
  const ScoreBlocks list = {blocks, pass.block_count, first * kGroupKeys, slice.full_lo,
                            slice.full_hi};
  const GroupScales scales = {groups.key_scales, groups.value_scales};
  const auto soften = [&]<int R>() {
    softmax_pass<Stored<K>::kScaled, R>(slice.rows, tile.scores, kScoreStride, p.scale * kLog2E,
                                        list, tile.ranges + slice.row, slice.run, tile.weights,
                                        kWeightStride, scales);
  };
  if (slice.rows == kTileRows)
    soften.template operator()<kTileRows>();
  else
    soften.template operator()<0>();
  float* o = tile.o + slice.row * p.layout.padded_v;
  with_rows(slice.rows, [&]<int R>() {
    value_rows<K, R>(tile.weights, kWeightStride, pass, p.layout, o, ahead);
  });
}

template <class K>
void end_segment(Tile<K>& tile) {
  const int64_t dims = tile.p->layout.padded_v;
  for (int n = 0; n < tile.slice_count; ++n) {
    Slice& slice = tile.slices[n];
    if (!slice.seen) continue;
    float *o = tile.o + slice.row * dims, *total_o = tile.total_o + slice.row * dims;
    const Total run = finish(slice.run, slice.rows);
    if (slice.merged) {
      merge(slice.rows, slice.total, total_o, run, o, dims, dims, dims);
    } else {
      slice.total = run;
      std::memcpy(total_o, o, static_cast<size_t>(slice.rows * dims) * sizeof(float));
    }
    slice.seen = false;
    slice.merged = true;
  }
}

// Normalises rows [row, row + rows) of the job and writes them where the call wants them.
template <class T>
void write_rows(const AttentionProblem& p, const AttentionJob& job, int row, int rows,
                const Total& total, const float* o, int64_t o_stride) {
  const int64_t group = p.q_heads / p.kv_heads, dims = p.layout.dim_v;
  const AttentionSequence& s = p.sequences[job.sequence];
  float sinks[16];
  f32x16::set1(-__builtin_inff()).store(sinks);
  RowCursor at(job, group, row);
  if (p.sink) {
    RowCursor from = at;
    for (int r = 0; r < rows; ++r, from.next()) sinks[r] = p.sink[job.kv_head * group + from.head];
  }
  const Normaliser n = normalise(rows, total, sinks, s.lse != nullptr);
  T* out = nullptr;
  for (int r = 0; r < rows; ++r, o += o_stride, out += dims, at.next()) {
    // The heads of a token are neighbours.
    if (r == 0 || at.head == 0) out = output<T>(p, job, at.token, at.head);
    const f32x16 factor = f32x16::set1(n.factor[r]);
    int64_t d = 0;
    for (; d + 16 <= dims; d += 16) (f32x16::load(o + d) * factor).store(out + d);
    if (d < dims) (f32x16::load(o + d) * factor).store_n(out + d, static_cast<int>(dims - d));
    if (s.lse)
      s.lse[(job.kv_head * group + at.head) * p.lse_head_stride +
            (s.order ? s.order[at.token] : at.token)] = n.lse[r];
  }
}

template <class K>
void write_slice(Tile<K>& tile, Slice& slice) {
  const int64_t dims = tile.p->layout.padded_v;
  float *o = tile.o + slice.row * dims, *total_o = tile.total_o + slice.row * dims;
  if (!slice.seen && !slice.merged) {
    start(slice.run);
    std::memset(o, 0, static_cast<size_t>(slice.rows * dims) * sizeof(float));
  }
  Total total;
  if (slice.seen || !slice.merged) total = finish(slice.run, slice.rows);
  if (slice.merged) {
    if (slice.seen) merge(slice.rows, slice.total, total_o, total, o, dims, dims, dims);
    total = slice.total;
    o = total_o;
  }
  write_rows<RowOf<K>>(*tile.p, *tile.job, slice.row, slice.rows, total, o, dims);
}

// A partial row: its weighted values, m and l.
int64_t partial_stride(const KvLayout& layout) { return layout.padded_v + 16; }

template <class K>
void write_partial(Tile<K>& tile) {
  const int64_t dims = tile.p->layout.padded_v, stride = partial_stride(tile.p->layout);
  for (int n = 0; n < tile.slice_count; ++n) {
    Slice& slice = tile.slices[n];
    if (!slice.seen) start(slice.run);
    const Total run = finish(slice.run, slice.rows);
    for (int r = 0; r < slice.rows; ++r) {
      float* partial = tile.p->partial + (tile.job->partial + slice.row + r) * stride;
      const size_t bytes = static_cast<size_t>(dims) * sizeof(float);
      if (slice.seen)
        std::memcpy(partial, tile.o + (slice.row + r) * dims, bytes);
      else
        std::memset(partial, 0, bytes);
      partial[dims] = run.m[r];
      partial[dims + 1] = run.l[r];
    }
  }
}

// `later`: a job that this thread may do next, or null.
template <class K>
void run_job(const AttentionProblem& p, const AttentionJob& job, const AttentionJob* later) {
  Tile<K> tile;
  carve(tile, p.layout, p.tile_rows, p.scratch + omp_get_thread_num() * p.scratch_bytes);
  const AttentionSequence& s = p.sequences[job.sequence];
  tile.p = &p;
  tile.sequence = &s;
  tile.job = &job;
  const int64_t first_block = job.kv_head * s.kv.head_blocks;
  tile.keys = static_cast<const K*>(s.kv.keys) + first_block * p.layout.key_block;
  tile.values = static_cast<const K*>(s.kv.values) + first_block * p.layout.value_block;
  load_rows(tile);

  const BlockRange range(p, job);
  const bool whole = job.segment < 0;
  Ahead ahead;
  for (int64_t block = range.begin; block < range.end;) {
    const int64_t pass_end = range.pass_end(block);
    int64_t steps = 0;
    for (int n = 0; n < tile.slice_count; ++n)
      steps += steps_of<K>(tile.slices[n].rows, (pass_end - block) * kBlockGroups, p.layout);
    ahead.clear(steps);
    if (block == range.begin && whole) look_ahead_rows<RowOf<K>>(p, job, later, ahead);
    if (pass_end < range.end) {
      look_ahead_blocks<K>(p, job, pass_end, range.pass_end(pass_end), ahead);
    } else if (later && later->kv_head != job.kv_head) {
      const BlockRange next(p, *later);
      look_ahead_blocks<K>(p, *later, next.begin, next.pass_end(next.begin), ahead);
    }
    for (int n = 0; n < tile.slice_count; ++n) {
      run_pass(tile, tile.slices[n], block, pass_end, ahead);
      if (whole && pass_end == range.end) write_slice(tile, tile.slices[n]);
    }
    block = pass_end;
    if (block % kSegmentBlocks == 0 && block < range.end) end_segment(tile);
  }
  if (!whole) return write_partial(tile);
  if (range.begin >= range.end)
    for (int n = 0; n < tile.slice_count; ++n) write_slice(tile, tile.slices[n]);
}

template <class T>
void merge_job(const AttentionProblem& p, const AttentionJob& job) {
  const int64_t dims = p.layout.padded_v, stride = partial_stride(p.layout);
  const int all = static_cast<int>(job.tokens * (p.q_heads / p.kv_heads));
  for (int row = 0; row < all; row += kTileRows) {
    const int rows = all - row < kTileRows ? all - row : kTileRows;
    float* o = p.partial + (job.partial + row) * stride;
    Total total;
    for (int64_t s = 0; s < job.segments; ++s) {
      const float* part_o = o + s * all * stride;
      Total part;
      f32x16::set1(kNoScore).store(part.m);
      f32x16::zero().store(part.l);
      for (int r = 0; r < rows; ++r) {
        part.m[r] = part_o[r * stride + dims];
        part.l[r] = part_o[r * stride + dims + 1];
      }
      if (s == 0)
        total = part;
      else
        merge(rows, total, o, part, part_o, dims, stride, stride);
    }
    write_rows<T>(p, job, row, rows, total, o, stride);
  }
}

template <class K>
void pack_tail(const AttentionProblem& p, const AttentionJob& job) {
  const AttentionSequence& s = p.sequences[job.sequence];
  for (int64_t t = s.first_task; t < s.first_task + s.task_count; ++t) {
    const KvPackTask& task = p.pack->tasks[t];
    const int64_t end = task.first_position + task.tokens;
    for (int64_t b = task.first_position / kBlockKeys; b * kBlockKeys < end; ++b)
      pack_block(*p.pack, task, job.kv_head, b, K{});
  }
}

template <class K>
void attend(const AttentionProblem& p) {
  int64_t work = 0;
  for (int64_t n = 0; n < p.job_count; ++n) {
    const AttentionJob& job = p.jobs[n];
    int64_t keys = p.sequences[job.sequence].keys;
    if (keys > p.window) keys = p.window;
    work += job.tokens * keys;
  }
  work *= p.q_heads / p.kv_heads * (p.layout.padded_qk + p.layout.padded_v);
  if (p.pack && !p.pack_in_job) pack(p.pack, 1, K{});
  const int64_t threads = omp_get_max_threads();
  parallel_for(p.job_count, work, kGrain, [&](int64_t n) {
    if (p.pack && p.pack_in_job) pack_tail<K>(p, p.jobs[n]);
    run_job<K>(p, p.jobs[n], n + threads < p.job_count ? p.jobs + n + threads : nullptr);
  });
  parallel_for(p.merge_count, work, kGrain,
               [&](int64_t n) { merge_job<RowOf<K>>(p, p.merges[n]); });
}

template <class K>
int64_t scratch_bytes(const KvLayout& layout, int64_t rows) {
  Tile<K> tile;
  return carve(tile, layout, rows, nullptr);
}

template <class K>
constexpr AttentionKernels kernels_of() {
  return {attend<K>, [](const KvPackProblem* p, int64_t n) { pack(p, n, K{}); }, scratch_bytes<K>};
}

}  // namespace

extern const AttentionTable attention_kernels = {
    {kernels_of<float>(), kernels_of<bf16>(), kernels_of<int8_code>(), kernels_of<e4m3_code>()}};

}  // namespace mn::MN_ISA
