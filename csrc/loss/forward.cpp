// Log-probabilities, entropy and divergence of every row, compiled once per ISA level. A job is a
// chunk of the vocabulary for all rows; what it leaves behind is three numbers per row.
#include <omp.h>

#include "loss/head.h"
#include "simd/log_softmax.h"

namespace mn::MN_ISA {
namespace {

// Sum of w (x - base), or of w (x - t) with a teacher's logits t; w as in chunk_sum.
double chunk_dot(const float* x, const float* t, int64_t n, const Weigh& weigh) {
  f64x16 sum = f64x16::zero();
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    const f32x16 logits = f32x16::load_n(x + i, lanes);
    const f32x16 other = t ? f32x16::load_n(t + i, lanes) : weigh.top;
    const f32x16 term = weigh(logits) * (logits - other);
    sum = add(sum, select(first_lanes(lanes), term, f32x16::zero()));
  }
  return reduce_add(sum);
}

ChunkStat chunk_stat(const float* x, int64_t n, float scale) {
  const float largest = reduce_max(chunk_maxima(x, n));
  return {largest, chunk_sum(x, n, Weigh(chunk_base(largest), scale)), 0};
}

// The weights that chunk_sum has added up, in the dtype of the head.
template <class T>
void keep_weights(const float* x, int64_t n, const Weigh& weigh, T* kept) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) weigh(f32x16::load(x + i)).store(kept + i);
  if (i < n) weigh(f32x16::load_n(x + i, lanes_left(n, i))).store_n(kept + i, lanes_left(n, i));
}

void keep_row(const LossForward& p, int64_t chunk, int64_t row, const float* x, int64_t n,
              float scale) {
  const float largest = p.stats[chunk * p.count + row].largest;
  const Weigh weigh(chunk_base(largest), scale);
  const int64_t at = chunk * kSoftmaxChunk * p.head.w.layout.inputs + row * n;
  if (p.head.w.layout.format == Format::bf16)
    keep_weights(x, n, weigh, static_cast<bf16*>(p.kept) + at);
  else
    keep_weights(x, n, weigh, static_cast<float*>(p.kept) + at);
  p.chunk_largest[chunk * p.count + row] = largest;
}

void chunk_job(const LossForward& p, int64_t chunk, char* scratch) {
  const int64_t first = chunk * kSoftmaxChunk;
  const int64_t n = lesser(kSoftmaxChunk, p.head.w.layout.outputs - first);
  const int64_t panel = first / kPanel, panels = (n + kPanel - 1) / kPanel;
  const float scale = inverse_temperature(p.temperature);
  float* x = reinterpret_cast<float*>(scratch);
  float* t = p.teacher.given() ? x + p.count * kSoftmaxChunk : nullptr;
  char* buffer = reinterpret_cast<char*>(x + p.count * kSoftmaxChunk * (t ? 2 : 1));
  logits(p.head, 0, panel, panels, x, kSoftmaxChunk, buffer);
  if (t) logits(p.teacher, 0, panel, panels, t, kSoftmaxChunk, buffer);
  for (int64_t row = 0; row < p.count; ++row) {
    const float* x_row = x + row * kSoftmaxChunk;
    const float* t_row = t ? t + row * kSoftmaxChunk : nullptr;
    ChunkStat& stat = p.stats[chunk * p.count + row];
    stat = chunk_stat(x_row, n, scale);
    if (t) p.teacher_stats[chunk * p.count + row] = chunk_stat(t_row, n, scale);
    if (t || p.entropy)
      stat.dot = chunk_dot(x_row, t_row, n, Weigh(chunk_base(stat.largest), scale));
    if (p.kept && row < p.kept_rows) keep_row(p, chunk, row, x_row, n, scale);
    for (int64_t k = row * p.ids_per_row; k < (row + 1) * p.ids_per_row; ++k)
      if (p.ids[k] >= first && p.ids[k] < first + n) p.id_logits[k] = x_row[p.ids[k] - first];
  }
}

RowStat row_stat(const LossForward& p, const ChunkStat* stats, int64_t row, float scale) {
  const int64_t chunks = softmax_chunks(p.head.w.layout.outputs);
  float top = -__builtin_inff();
  for (int64_t c = 0; c < chunks; ++c) {
    const float largest = stats[c * p.count + row].largest;
    top = largest > top ? largest : top;
  }
  double total = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    const ChunkStat& stat = stats[c * p.count + row];
    total += stat.sum * chunk_weight(stat.largest, top, scale);
  }
  return {static_cast<double>(top), total};
}

// Mean over the row's distribution of (x - top), or of (x - the teacher's x).
double row_mean(const LossForward& p, int64_t row, const RowStat& of_row, float scale) {
  const float top = static_cast<float>(of_row.top);
  double sum = 0;
  for (int64_t c = 0; c < softmax_chunks(p.head.w.layout.outputs); ++c) {
    const ChunkStat& stat = p.stats[c * p.count + row];
    const double base = static_cast<double>(chunk_base(stat.largest)) - of_row.top;
    sum += (stat.dot + (p.teacher.given() ? 0 : base * stat.sum)) *
           chunk_weight(stat.largest, top, scale);
  }
  return sum / of_row.total;
}

void finish_row(const LossForward& p, int64_t row) {
  const float scale = inverse_temperature(p.temperature);
  const double wide = static_cast<double>(scale);
  const RowStat stat = p.row_stats[row] = row_stat(p, p.stats, row, scale);
  for (int64_t k = row * p.ids_per_row; k < (row + 1) * p.ids_per_row; ++k)
    p.logprobs[k] =
        p.ids[k] < 0
            ? 0.f
            : static_cast<float>(log_probability(p.id_logits[k], static_cast<float>(stat.top),
                                                 stat.total, p.temperature));
  if (p.entropy)
    p.entropy[row] =
        static_cast<float>(__builtin_log(stat.total) - wide * row_mean(p, row, stat, scale));
  if (!p.teacher.given()) return;
  const RowStat teacher = p.teacher_row_stats[row] = row_stat(p, p.teacher_stats, row, scale);
  p.divergence[row] =
      static_cast<float>(wide * (row_mean(p, row, stat, scale) - stat.top + teacher.top) -
                         (__builtin_log(stat.total) - __builtin_log(teacher.total)));
}

void forward(const LossForward& p) {
  const int64_t chunks = softmax_chunks(p.head.w.layout.outputs);
  const int64_t packs = pack_jobs(p.head), teacher_packs = pack_jobs(p.teacher);
#pragma omp parallel num_threads(p.threads)
  {
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < packs + teacher_packs; ++job)
      job < packs ? pack_job(p.head, job) : pack_job(p.teacher, job - packs);
    char* scratch = p.thread_scratch + omp_get_thread_num() * p.thread_scratch_bytes;
#pragma omp for schedule(dynamic, 1)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) chunk_job(p, chunk, scratch);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < p.count; ++row) finish_row(p, row);
  }
}

}  // namespace

extern const LossKernels loss_kernels = {forward};

}  // namespace mn::MN_ISA
