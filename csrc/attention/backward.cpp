// The backward pass: tiles of rows over blocks of keys, all five products of a pair of them at
// once.
//
// Rows are the lanes: scores come out transposed, [key][row], which is what the sums over rows
// read, and two rows of dS interleaved are what the sum over keys reads. So nothing is transposed
// but the queries and output gradients of a tile, and its finished dq.
#include "attention/backward_tile.h"

#include <omp.h>

#include "runtime/parallel.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 18;  // multiply-adds below which one thread is faster

// Keys and values of one block into padded rows, and keys into pairs.
template <class T>
void pack_block(const BackwardProblem& p, const BackwardSequence& s, int64_t head, int64_t block) {
  const int64_t blocks = blocks_for(s.keys), at = s.first_block + head * blocks + block;
  T* keys = static_cast<T*>(p.key_rows) + at * kBlockKeys * p.padded_qk;
  T* values = static_cast<T*>(p.value_rows) + at * kBlockKeys * p.padded_v;
  const T* k = static_cast<const T*>(s.k) + head * p.k_head_stride;
  const T* v = static_cast<const T*>(s.v) + head * p.v_head_stride;
  const int64_t left = s.keys - block * kBlockKeys, count = left < kBlockKeys ? left : kBlockKeys;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t key = block * kBlockKeys + i;
    copy_padded(k + key * p.k_token_stride, p.dim_qk, p.padded_qk, keys + i * p.padded_qk);
    copy_padded(v + key * p.v_token_stride, p.dim_v, p.padded_v, values + i * p.padded_v);
  }
  if constexpr (sizeof(T) == 2) {
    // The partner of an odd last key meets a dS of zero.
    if (count % 2)
      std::memset(keys + count * p.padded_qk, 0, static_cast<size_t>(p.padded_qk) * sizeof(T));
    T* pairs = static_cast<T*>(p.key_pairs) + at * kBlockKeys * p.padded_qk;
    for (int64_t i = 0; i < count; i += 2)
      for (int64_t d = 0; d < p.padded_qk; d += 16)
        interleave(keys + i * p.padded_qk + d, keys + (i + 1) * p.padded_qk + d,
                   pairs + i * p.padded_qk + 2 * d);
  }
}

// Two rows of ds, side by side.
MN_INLINE void pair_up(const float* ds, int64_t, float* pairs) { f32x16::load(ds).store(pairs); }
MN_INLINE void pair_up(const bf16* ds, int64_t stride, bf16* pairs) {
  interleave(ds, ds + stride, pairs);
}

// Scores and dP of a panel into weights and dS, for `keys` keys from position `first` on.
template <class T>
void weigh(const BackwardTile<T>& t, int64_t index, int64_t first, int64_t keys) {
  constexpr int kWidth = Step<T>::kWidth;
  const Panel& panel = t.panels[index];
  const int64_t start = index * kPanelRows, vectors = (panel.rows + 15) / 16;
  const f32x16 scale = f32x16::set1(t.p->scale * kLog2E);
  const bool masked = first < panel.full_lo || first + keys > panel.full_hi;
  if (masked)
    for (int64_t r = 0; r < vectors * 16; ++r) {
      const int64_t lo = t.ranges[start + r].lo - first, hi = t.ranges[start + r].hi - first;
      t.lo[r] = static_cast<float>(lo < 0 ? 0 : lo < keys ? lo : keys);
      t.hi[r] = static_cast<float>(hi < 0 ? 0 : hi < keys ? hi : keys);
    }
  for (int64_t j = 0; j < keys; ++j) {
    T *weights = t.weights + j * t.weight_stride + start, *ds = t.ds + j * t.weight_stride + start;
    const f32x16 key = f32x16::set1(static_cast<float>(j));
    for (int64_t r = 0; r < vectors * 16; r += 16) {
      const f32x16 minus_lse = f32x16::load(t.minus_lse + start + r);
      f32x16 w = exp2_weight(fma(f32x16::load(t.s + j * kPanelRows + r), scale, minus_lse));
      f32x16 d = w * (f32x16::load(t.dp + j * kPanelRows + r) - f32x16::load(t.delta + start + r));
      if (masked) {
        const uint32_t seen =
            less_mask(key, f32x16::load(t.hi + r)) & ~less_mask(key, f32x16::load(t.lo + r));
        w = select(seen, w, f32x16::zero());
        d = select(seen, d, f32x16::zero());
      }
      w.store(weights + r);
      d.store(ds + r);
    }
    if (kWidth == 2 && j == keys - 1 && j % 2 == 0)
      std::memset(ds + t.weight_stride, 0, static_cast<size_t>(vectors * 16) * sizeof(T));
    if (j % kWidth == kWidth - 1 || j == keys - 1) {
      const int64_t even = j / kWidth * kWidth;
      for (int64_t r = 0; r < vectors * 16; r += 16)
        pair_up(t.ds + even * t.weight_stride + start + r, t.weight_stride,
                t.ds_pairs + even * kPanelRows + r * kWidth);
    }
  }
}

// A tile over the keys [first, first + keys) of one block; dk and dv are those keys' sums.
template <class T>
void run_block(const BackwardTile<T>& t, int64_t first, int64_t keys, float* dk, float* dv,
               Ahead& ahead) {
  constexpr int64_t kWidth = Step<T>::kWidth;
  const BackwardProblem& p = *t.p;
  const int64_t blocks = blocks_for(t.sequence->keys);
  const int64_t at = (t.sequence->first_block + t.job->kv_head * blocks) * kBlockKeys + first;
  const T* key_rows = static_cast<const T*>(p.key_rows) + at * p.padded_qk;
  const T* key_pairs = static_cast<const T*>(p.key_pairs) + at * p.padded_qk;
  const T* value_rows = static_cast<const T*>(p.value_rows) + at * p.padded_v;
  const int64_t end = first + keys;
  // Panels that see some of these keys; they are neighbours.
  int64_t from = t.panel_count, to = 0;
  for (int64_t n = 0; n < t.panel_count; ++n) {
    const Panel& panel = t.panels[n];
    if (panel.lo >= end || panel.hi <= first) continue;
    if (n < from) from = n;
    to = n + 1;
  }
  for (int64_t n = from; n < to; ++n) {
    const int64_t start = n * kPanelRows, vectors = (t.panels[n].rows + 15) / 16;
    multiply<T>({key_rows, p.padded_qk, kWidth}, keys, t.lane_q + start * p.padded_qk, 0, vectors,
                p.padded_qk / kWidth, false, t.s, kPanelRows, ahead);
    multiply<T>({value_rows, p.padded_v, kWidth}, keys, t.lane_dout + start * p.padded_v, 0,
                vectors, p.padded_v / kWidth, false, t.dp, kPanelRows, ahead);
    weigh(t, n, first, keys);
    multiply<T>({key_pairs, kWidth, p.padded_qk * kWidth}, p.padded_qk, t.ds_pairs, 0, vectors,
                (keys + kWidth - 1) / kWidth, t.panels[n].seen, t.dq + start * p.padded_qk,
                kPanelRows, ahead);
    t.panels[n].seen = true;
  }
  if (from >= to) return;
  const int64_t start = from * kPanelRows, depth_panel = p.tile_rows * kPanelColumns;
  const int64_t end_row = to * kPanelRows < t.rows ? to * kPanelRows : round_up(t.rows, 16);
  const int64_t steps = (end_row - start) / kWidth;
  multiply<T>({t.weights + start, t.weight_stride, kWidth}, keys,
              t.depth_dout + start * kPanelColumns, depth_panel, p.padded_v / 16, steps, true, dv,
              p.padded_v, ahead);
  multiply<T>({t.ds + start, t.weight_stride, kWidth}, keys, t.depth_q + start * kPanelColumns,
              depth_panel, p.padded_qk / 16, steps, true, dk, p.padded_qk, ahead);
}

// About how many steps of register tiles `keys` keys of a tile take.
template <class T>
int64_t steps_of(const BackwardTile<T>& t, int64_t keys) {
  const BackwardProblem& p = *t.p;
  const int64_t tiles = keys / kProductRows<T> + 1, width = Step<T>::kWidth;
  const int64_t per_panel =
      tiles * (p.padded_qk + p.padded_v) + p.padded_qk / kProductRows<T> * keys;
  const int64_t sums = tiles * t.rows * (p.padded_qk + p.padded_v) / kPanelColumns;
  return (t.panel_count * per_panel + sums) / width;
}

// Rows [row, end) of a tensor, a token's heads after one another.
void add_rows(Ahead& ahead, const void* first, int64_t token_stride, int64_t head_stride,
              int64_t dim, int64_t size, int64_t group, int64_t row, int64_t end) {
  for (; row < end; row += group - row % group) {
    const char* token = static_cast<const char*>(first) + row / group * token_stride * size;
    for (int64_t h = 0; h < group; ++h) ahead.add_range(token + h * head_stride * size, dim * size);
  }
}

// Asks for what the tile writes at its end, and for the rows of the one that follows.
template <class T>
void look_ahead(const BackwardTile<T>& t, int64_t keys, Ahead& ahead) {
  const BackwardProblem& p = *t.p;
  const BackwardSequence& s = *t.sequence;
  const int64_t size = sizeof(T), h = t.job->kv_head * t.group, next = t.first_row + t.rows;
  const int64_t rows = s.tokens * t.group, after = next + p.tile_rows;
  const int64_t end = after < rows ? after : rows;
  ahead.clear(steps_of(t, keys));
  add_rows(ahead, static_cast<T*>(s.dq) + h * p.dim_qk, p.q_heads * p.dim_qk, p.dim_qk, p.dim_qk,
           size, t.group, t.first_row, next);
  add_rows(ahead, static_cast<const T*>(s.q) + h * p.q_head_stride, p.q_token_stride,
           p.q_head_stride, p.dim_qk, size, t.group, next, end);
  add_rows(ahead, static_cast<const T*>(s.dout) + h * p.dout_head_stride, p.dout_token_stride,
           p.dout_head_stride, p.dim_v, size, t.group, next, end);
  add_rows(ahead, static_cast<const T*>(s.out) + h * p.dim_v, p.q_heads * p.dim_v, p.dim_v, p.dim_v,
           size, t.group, next, end);
}

template <class T>
void run_job(const BackwardProblem& p, int64_t n) {
  const BackwardJob& job = p.jobs[n];
  BackwardTile<T> t;
  carve(t, p, p.scratch + omp_get_thread_num() * p.scratch_bytes);
  t.p = &p;
  t.sequence = p.sequences + job.sequence;
  t.job = &job;
  t.group = p.q_heads / p.kv_heads;
  for (int64_t h = 0; h < t.group; ++h) t.dsink[h] = 0;
  float* dk = p.partial + job.partial;
  float* dv = dk + (job.key_hi - job.key_lo) * p.padded_qk;
  int64_t clean = job.key_lo;  // the sums of the keys before have begun
  const int64_t end_row = (job.first_token + job.tokens) * t.group;
  for (t.first_row = job.first_token * t.group; t.first_row < end_row; t.first_row += t.rows) {
    t.rows = end_row - t.first_row < p.tile_rows ? end_row - t.first_row : p.tile_rows;
    t.panel_count = (t.rows + kPanelRows - 1) / kPanelRows;
    int64_t lo = INT64_MAX, hi = 0;
    for (int64_t i = 0; i < t.panel_count; ++i) {
      load_panel(t, i);
      const Panel& panel = t.panels[i];
      if (panel.hi == panel.lo) continue;
      if (panel.lo < lo) lo = panel.lo;
      if (panel.hi > hi) hi = panel.hi;
    }
    if (hi > clean) {
      std::memset(dk + (clean - job.key_lo) * p.padded_qk, 0,
                  static_cast<size_t>((hi - clean) * p.padded_qk) * sizeof(float));
      std::memset(dv + (clean - job.key_lo) * p.padded_v, 0,
                  static_cast<size_t>((hi - clean) * p.padded_v) * sizeof(float));
      clean = hi;
    }
    Ahead ahead;
    look_ahead(t, hi > lo ? hi - lo : 0, ahead);
    // Pairs of keys are anchored at even positions.
    for (int64_t first = lo & ~int64_t{1}; first < hi;) {
      const int64_t block_end = (first / kBlockKeys + 1) * kBlockKeys;
      const int64_t end = block_end < hi ? block_end : hi;
      run_block(t, first, end - first, dk + (first - job.key_lo) * p.padded_qk,
                dv + (first - job.key_lo) * p.padded_v, ahead);
      first = end;
    }
    for (int64_t i = 0; i < t.panel_count; ++i) store_panel(t, i);
  }
  if (p.sink)
    for (int64_t h = 0; h < t.group; ++h) p.sink_partial[n * t.group + h] = t.dsink[h];
}

// Adds up a row of the jobs' partial sums, in order.
template <class T>
void reduce_row(const float* const* rows, int count, float scale, int64_t dim, T* out) {
  const f32x16 scales = f32x16::set1(scale);
  for (int64_t d = 0; d < dim; d += 16) {
    const int n = dim - d < 16 ? static_cast<int>(dim - d) : 16;
    f32x16 sum = f32x16::zero();
    for (int i = 0; i < count; ++i) sum = sum + f32x16::load_n(rows[i] + d, n);
    (sum * scales).store_n(out + d, n);
  }
}

template <class T>
void reduce_block(const BackwardProblem& p, const BackwardSequence& s, int64_t head,
                  int64_t block) {
  const int64_t first = block * kBlockKeys;
  const int64_t end = first + kBlockKeys < s.key_rows ? first + kBlockKeys : s.key_rows;
  const BackwardJob* jobs = p.jobs + s.first_job + head * s.jobs_per_head;
  for (int64_t key = first; key < end; ++key) {
    const float *dk[kMostPartials], *dv[kMostPartials];
    int count = 0;
    for (int64_t n = 0; n < s.jobs_per_head; ++n) {
      const BackwardJob& job = jobs[n];
      if (key < job.key_lo || key >= job.key_hi) continue;
      const float* partial = p.partial + job.partial;
      dk[count] = partial + (key - job.key_lo) * p.padded_qk;
      dv[count++] =
          partial + (job.key_hi - job.key_lo) * p.padded_qk + (key - job.key_lo) * p.padded_v;
    }
    const int64_t row = key * p.kv_heads + head;
    reduce_row(dk, count, p.scale, p.dim_qk, static_cast<T*>(s.dk) + row * p.dim_qk);
    reduce_row(dv, count, 1.f, p.dim_v, static_cast<T*>(s.dv) + row * p.dim_v);
  }
}

void reduce_sinks(const BackwardProblem& p) {
  const int64_t group = p.q_heads / p.kv_heads;
  for (int64_t h = 0; h < p.q_heads; ++h) {
    double sum = 0;
    for (int64_t n = 0; n < p.job_count; ++n)
      if (p.jobs[n].kv_head == h / group) sum += p.sink_partial[n * group + h % group];
    p.dsink[h] = static_cast<float>(sum);
  }
}

// f(sequence, kv head, block) for all blocks of `rows` keys, padded to the longest sequence.
template <class F>
void for_blocks(const BackwardProblem& p, int64_t work, const F& f) {
  const int64_t blocks = blocks_for(p.max_key_rows);
  parallel_for(p.sequence_count * p.kv_heads * blocks, work, kGrain, [&](int64_t n) {
    f(p.sequences[n / blocks / p.kv_heads], n / blocks % p.kv_heads, n % blocks);
  });
}

template <class T>
void run(const BackwardProblem& p) {
  int64_t keys = 0, work = 0;
  for (int64_t n = 0; n < p.sequence_count; ++n) keys += p.sequences[n].key_rows;
  for (int64_t n = 0; n < p.job_count; ++n) {
    const BackwardJob& job = p.jobs[n];
    const int64_t seen = job.key_hi - job.key_lo;
    work += job.tokens * (seen < p.window ? seen : p.window);
  }
  work *= p.q_heads / p.kv_heads * (p.padded_qk + p.padded_v);
  const int64_t copied = keys * p.kv_heads * (p.padded_qk + p.padded_v);
  for_blocks(p, copied, [&](const BackwardSequence& s, int64_t head, int64_t block) {
    if (block < blocks_for(s.keys)) pack_block<T>(p, s, head, block);
  });
  parallel_for(p.job_count, work, kGrain, [&](int64_t n) { run_job<T>(p, n); });
  for_blocks(p, copied, [&](const BackwardSequence& s, int64_t head, int64_t block) {
    if (block < blocks_for(s.key_rows)) reduce_block<T>(p, s, head, block);
  });
  if (p.dsink) reduce_sinks(p);
}

template <class T>
int64_t scratch_bytes(const BackwardProblem& p) {
  BackwardTile<T> t;
  return carve(t, p, nullptr);
}

}  // namespace

extern const AttentionBackwardKernels attention_backward_kernels = {
    run<float>, run<bf16>, scratch_bytes<float>, scratch_bytes<bf16>};

}  // namespace mn::MN_ISA
