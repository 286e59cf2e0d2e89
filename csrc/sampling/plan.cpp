#include <bit>

#include "runtime/scratch.h"
#include "sampling/problem.h"

namespace mn {

SampleScratch plan_sample_scratch(const SampleProblem& p) {
  const bool penalties = p.repetition_penalty || p.presence_penalty || p.frequency_penalty;
  const bool truncation = p.top_k || p.top_p || p.min_p;
  // Vectors are stored whole, hence one of slack. Pages of candidates that never come are never
  // touched. The keys of the column maxima borrow the candidates' arrays.
  const int64_t padded = softmax_chunks(p.vocab) * kSoftmaxChunk + 16;
  const int64_t candidates = truncation ? padded : 0;
  const auto twice = static_cast<uint64_t>(2 * p.history_len + 1);
  const int64_t table = penalties ? static_cast<int64_t>(std::bit_ceil(twice)) : 0;
  ScratchPlan plan;
  SampleScratch s;
  s.row = plan.add(penalties ? 4 * padded : 0);
  s.maxima = plan.add(4 * 16 * softmax_chunks(p.vocab));
  s.sums = plan.add(8 * softmax_chunks(p.vocab));
  s.ids = plan.add(4 * candidates);
  s.logits = plan.add(4 * candidates);
  s.weights = plan.add(4 * candidates);
  s.keys = plan.add(8 * candidates);
  s.open_keys = plan.add(8 * candidates);
  s.open_masses = plan.add(4 * candidates);
  s.seen = plan.add(4 * table);
  s.times = plan.add(4 * table);
  s.table_size = table;
  s.bytes = plan.total();
  return s;
}

}  // namespace mn
