// The blocks that a job visits, in passes, and what is fetched ahead of them.
#pragma once

#include "attention/slice.h"

namespace mn::MN_ISA {
namespace {

// What this job writes, and the queries of a later one.
template <class T>
void look_ahead_rows(const AttentionProblem& p, const AttentionJob& job, const AttentionJob* later,
                     Ahead& ahead) {
  const int64_t group = p.q_heads / p.kv_heads, size = sizeof(T);
  for (int64_t i = job.first_token; i < job.first_token + job.tokens; ++i)
    ahead.add_range(output<T>(p, job, i, 0), group * p.layout.dim_v * size);
  if (!later) return;
  for (int64_t i = later->first_token; i < later->first_token + later->tokens; ++i) {
    const T* q = query<T>(p, *later, i, 0);
    for (int64_t h = 0; h < group; ++h, q += p.q_head_stride)
      ahead.add_range(q, p.layout.dim_qk * size);
  }
}

// The committed keys and values of the blocks [begin, end) of a job.
template <class K>
void look_ahead_blocks(const AttentionProblem& p, const AttentionJob& job, int64_t begin,
                       int64_t end, Ahead& ahead) {
  const KvLayout& layout = p.layout;
  const KvSource& kv = p.sequences[job.sequence].kv;
  if (kv.tail_group != INT64_MAX) {
    const int64_t committed = (kv.tail_group + kBlockGroups - 1) / kBlockGroups;
    if (end > committed) end = committed;
  }
  while (begin < end) {
    int64_t stored = begin, count = end - begin;
    if (kv.ring_blocks) {
      stored = begin % kv.ring_blocks;
      if (count > kv.ring_blocks - stored) count = kv.ring_blocks - stored;
    }
    const int64_t at = job.kv_head * kv.head_blocks + stored, size = sizeof(K);
    ahead.add_range(static_cast<const K*>(kv.keys) + at * layout.key_block,
                    count * layout.key_block * size);
    ahead.add_range(static_cast<const K*>(kv.values) + at * layout.value_block,
                    count * layout.value_block * size);
    begin += count;
  }
}

// Blocks [begin, end) that a job visits.
struct BlockRange {
  int64_t begin, end;

  BlockRange(const AttentionProblem& p, const AttentionJob& job) {
    const AttentionSequence& s = p.sequences[job.sequence];
    int64_t lo = INT64_MAX, hi = 0;
    for (int64_t i = job.first_token; i < job.first_token + job.tokens; ++i) {
      const RowRange range = row_range(p, s, i);
      if (range.hi == range.lo) continue;
      if (range.lo < lo) lo = range.lo;
      if (range.hi > hi) hi = range.hi;
    }
    begin = lo == INT64_MAX ? 0 : lo / kBlockKeys;
    end = blocks_for(hi);
    if (job.segment < 0) return;
    if (begin < job.segment * kSegmentBlocks) begin = job.segment * kSegmentBlocks;
    if (end > (job.segment + 1) * kSegmentBlocks) end = (job.segment + 1) * kSegmentBlocks;
  }

  int64_t pass_end(int64_t block) const {
    const int64_t segment_end = (block / kSegmentBlocks + 1) * kSegmentBlocks;
    int64_t next = block + kPassBlocks < end ? block + kPassBlocks : end;
    return next < segment_end ? next : segment_end;
  }
};

}  // namespace
}  // namespace mn::MN_ISA
