#include "attention/plan.h"

#include <algorithm>
#include <limits>
#include <sstream>

namespace mn {
namespace {

// Rows per tile: enough that keys and values are read from L2 and not from memory, few enough that
// queries and outputs stay there too. A short step is one tile.
constexpr int64_t kTileRows = 64, kShortStepRows = 128;
constexpr int64_t kJobsPerThread = 4;

// Segments [first, end) that the tokens [begin, end) of a sequence see.
struct SegmentRange {
  int64_t first, end;
};

SegmentRange segments_of(const AttentionProblem& p, const AttentionSequence& s, int64_t begin,
                         int64_t end) {
  const int64_t first = s.position ? s.first_position : s.first_position + begin;
  const int64_t last = s.position ? s.keys - 1 : s.first_position + end - 1;
  const int64_t lo = p.window <= first ? first - p.window + 1 : 0;
  const int64_t hi = p.causal ? std::min(s.keys, last + 1) : s.keys;
  if (hi <= lo) return {0, 0};
  return {lo / kSegmentKeys, (hi + kSegmentKeys - 1) / kSegmentKeys};
}

struct Tiling {
  int64_t tokens, tiles;
};

Tiling tiling_of(const AttentionSequence& s, int64_t group) {
  const int64_t tokens = s.tokens * group <= kShortStepRows
                             ? std::max<int64_t>(s.tokens, 1)
                             : std::max<int64_t>(kTileRows / group, 1);
  return {tokens, (s.tokens + tokens - 1) / tokens};
}

void add_split(AttentionPlan& plan, AttentionJob job, const SegmentRange& range, int64_t rows) {
  job.partial = plan.partial_rows;
  job.segments = static_cast<int32_t>(range.end - range.first);
  plan.merges.push_back(job);
  for (int64_t segment = range.first; segment < range.end; ++segment) {
    job.segment = static_cast<int32_t>(segment);
    job.partial = plan.partial_rows;
    plan.jobs.push_back(job);
    plan.partial_rows += rows;
  }
}

}  // namespace

AttentionPlan plan_attention(const AttentionProblem& p, int64_t sequence_count, int threads) {
  AttentionPlan plan;
  const int64_t group = p.q_heads / p.kv_heads;
  int64_t tiles = 0;
  for (int64_t n = 0; n < sequence_count; ++n)
    tiles += tiling_of(p.sequences[n], group).tiles * p.kv_heads;
  const bool split = threads > 1 && tiles < kJobsPerThread * threads;

  for (int64_t n = 0; n < sequence_count; ++n) {
    const AttentionSequence& s = p.sequences[n];
    const Tiling tiling = tiling_of(s, group);
    if (tiling.tiles > 1) plan.one_tile = false;
    for (int64_t head = 0; head < p.kv_heads; ++head) {
      // The last tile of a causal sequence has the most work, so it starts first.
      for (int64_t tile = tiling.tiles - 1; tile >= 0; --tile) {
        AttentionJob job{};
        job.sequence = static_cast<int32_t>(n);
        job.kv_head = static_cast<int32_t>(head);
        job.first_token = static_cast<int32_t>(tile * tiling.tokens);
        job.tokens = static_cast<int32_t>(std::min(tiling.tokens, s.tokens - job.first_token));
        job.segment = -1;
        const int64_t rows = job.tokens * group;
        plan.tile_rows = std::max(plan.tile_rows, rows);
        const SegmentRange range = segments_of(p, s, job.first_token, job.first_token + job.tokens);
        if (split && range.end - range.first > 1) {
          plan.one_tile = false;
          add_split(plan, job, range, rows);
        } else {
          plan.jobs.push_back(job);
        }
      }
    }
  }
  return plan;
}

std::string AttentionPlan::describe() const {
  std::ostringstream text;
  text << jobs.size() << " jobs of up to " << tile_rows << " rows, " << merges.size()
       << " merges of " << partial_rows << " partial rows\n";
  for (const AttentionJob& job : jobs) {
    text << "sequence " << job.sequence << " kv_head " << job.kv_head << " tokens ["
         << job.first_token << ", " << job.first_token + job.tokens << ")";
    if (job.segment >= 0)
      text << " keys [" << job.segment * kSegmentKeys << ", " << (job.segment + 1) * kSegmentKeys
           << ")";
    text << "\n";
  }
  return text.str();
}

}  // namespace mn
