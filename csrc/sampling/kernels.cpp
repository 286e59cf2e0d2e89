// The plain sampler, compiled once per ISA level. A row is one job: its bits depend neither on the
// batch nor on the threads.
#include <omp.h>

#include "runtime/parallel.h"
#include "sampling/penalties.h"
#include "sampling/philox.h"
#include "sampling/problem.h"
#include "sampling/truncate.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;  // logits below which one thread is faster

struct Row {
  int64_t vocab;
  float temperature;
  Truncation truncation;
  double coin;
  float* maxima;
  double* sums;
  Candidates candidates;
};

template <class T>
MN_INLINE T value_or(const T* control, int64_t b, T off) {
  return control ? control[b] : off;
}

MN_INLINE Row row_of(const SampleProblem& p, int64_t b, char* scratch) {
  const SampleScratch& at = p.layout;
  return {
      .vocab = p.vocab,
      .temperature = value_or(p.temperature, b, 1.f),
      .truncation = {value_or(p.top_k, b, 0), static_cast<double>(value_or(p.top_p, b, 1.f)),
                     value_or(p.min_p, b, 0.f)},
      .coin = p.coins ? p.coins[b] : philox_uniform(p.seed[b], p.position[b]),
      .maxima = reinterpret_cast<float*>(scratch + at.maxima),
      .sums = reinterpret_cast<double*>(scratch + at.sums),
      .candidates = {reinterpret_cast<int32_t*>(scratch + at.ids),
                     reinterpret_cast<float*>(scratch + at.logits),
                     reinterpret_cast<float*>(scratch + at.weights),
                     reinterpret_cast<uint64_t*>(scratch + at.keys),
                     {reinterpret_cast<uint64_t*>(scratch + at.open_keys),
                      reinterpret_cast<float*>(scratch + at.open_masses)},
                     0},
  };
}

MN_INLINE float as_float(float x) { return x; }
MN_INLINE float as_float(bf16 x) { return to_float(x); }

// Draws from the logits x, whose maxima are known; `summed` says that row.sums and total are, too.
template <class X>
int64_t draw_id(const X* x, const Row& row, float top, bool summed, double total) {
  if (row.temperature == 0.f) return first_of(x, row.vocab, top, row.maxima);
  const float scale = inverse_temperature(row.temperature);
  const RowWeights weights{top, scale, row.maxima, row.sums};
  const Truncation& truncation = row.truncation;
  const bool needs_total =
      !truncation.by_k(row.vocab) && (truncation.by_p() || !truncation.active(row.vocab));
  if (needs_total && !summed) total = row_sums(x, row.vocab, weights);
  if (!truncation.active(row.vocab)) return draw_from_row(x, row.vocab, weights, row.coin * total);
  const Candidates found = find_candidates(x, row.vocab, truncation, Weigh(top, scale), top,
                                           row.temperature, total, row.maxima, row.candidates);
  return draw_from_candidates(found, last_kept(found, row.vocab, truncation, total),
                              truncation.min_p, row.coin);
}

template <class T>
bool sample_row(const SampleProblem& p, int64_t b, char* scratch) {
  const T* logits = static_cast<const T*>(p.logits) + b * p.logits_stride;
  const Row row = row_of(p, b, scratch);
  const float top = row_maxima(logits, p.vocab, row.maxima);
  if (!(top > -__builtin_inff() && top < __builtin_inff())) return false;

  // The policy without penalties and truncation gives the log-probability.
  const float temperature = row.temperature == 0.f ? 1.f : row.temperature;
  const double total = row_sums(
      logits, p.vocab, RowWeights{top, inverse_temperature(temperature), row.maxima, row.sums});
  if (!(total >= 1.0)) return false;  // NaN: the largest logit alone weighs 1

  const Penalties penalties = {value_or(p.repetition_penalty, b, 1.f),
                               value_or(p.presence_penalty, b, 0.f),
                               value_or(p.frequency_penalty, b, 0.f)};
  int64_t id;
  if (penalties.active()) {
    float* changed = reinterpret_cast<float*>(scratch + p.layout.row);
    const HistoryTable table = {reinterpret_cast<int32_t*>(scratch + p.layout.seen),
                                reinterpret_cast<int32_t*>(scratch + p.layout.times),
                                p.layout.table_size};
    copy_row(logits, p.vocab, changed);
    penalise_row(p.history + b * p.history_len, p.history_len, value_or(p.prompt_lens, b, 0),
                 penalties, table, changed);
    id = draw_id(changed, row, row_maxima(changed, p.vocab, row.maxima), false, 0.0);
  } else {
    id = draw_id(logits, row, top, true, total);
  }
  p.ids[b] = id;
  p.logprobs[b] =
      static_cast<float>(log_probability(as_float(logits[id]), top, total, temperature));
  return true;
}

template <class T>
bool sample(const SampleProblem& p) {
  bool defined = true;
  parallel_for(p.rows, p.rows * p.vocab, kGrain, [&](int64_t b) {
    if (!sample_row<T>(p, b, p.scratch + omp_get_thread_num() * p.layout.bytes))
      __atomic_store_n(&defined, false, __ATOMIC_RELAXED);
  });
  return defined;
}

}  // namespace

extern const SamplingKernels sampling_kernels = {sample<float>, sample<bf16>};

}  // namespace mn::MN_ISA
