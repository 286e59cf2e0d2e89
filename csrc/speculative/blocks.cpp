// Drafts from the MTP blocks. With n tokens fed and token n known, block k has final rows at
// positions below n - k, which enter its cache, and for a drafted path of k tokens private rows at
// n - k .. n - 1, which do not; the last private row proposes. See inference/speculation/mtp.py.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "model/pass.h"
#include "model/step.h"
#include "runtime/scratch.h"
#include "sampling/problem.h"
#include "speculative/round.h"

namespace mn {
namespace {

// More final rows than these go ahead of the others and leave keys and values only.
constexpr int64_t kFinalBesideDrafts = 8;

struct BlockPass {
  const RoundModel& model;
  std::vector<SpeculativeRow>& state;
  RoundMemory& memory;
  int64_t k;
  const Decoder& block;
  const CacheLayers& caches;
  BlockRows rows{};
  std::vector<const void*> hidden{};
  std::vector<int64_t> committed{};  // the final rows, as places in the pass
  bool branched = false;

  int64_t* length(int64_t row) const { return caches.lengths.as<int64_t>() + row; }

  void add(int64_t row, int64_t token, int64_t position, uint64_t mask) {
    rows.ids.push_back(token);
    rows.masks.push_back(static_cast<int64_t>(mask));
    hidden.push_back(state[static_cast<size_t>(row)].hidden.at(position));
  }
  // The next `count` known rows; of more than 64 no pass has masks.
  void add_final(int64_t row, int64_t count) {
    const std::vector<int32_t>& tokens = state[static_cast<size_t>(row)].tokens;
    const int64_t first = *length(row);
    for (int64_t i = 0; i < count; ++i) {
      committed.push_back(rows.count());
      const uint64_t mask = i < 64 ? (uint64_t{2} << i) - 1 : 0;
      add(row, tokens[static_cast<size_t>(first + i + 1 + k)], first + i, mask);
    }
  }
  // The private rows of the paths in `growth`'s front, below `final` rows of the same sequence.
  void add_private(int64_t row, int64_t fed, int64_t final, const Growth& growth);

  void run(float* logits);
};

void BlockPass::add_private(int64_t row, int64_t fed, int64_t final, const Growth& growth) {
  const int64_t start = rows.count() - final;
  std::vector<int32_t> nodes;
  for (const int32_t end : growth.front())
    for (const int32_t node : growth.path(end)) nodes.push_back(node);
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  const auto place = [&](int32_t node) {
    return final + (std::lower_bound(nodes.begin(), nodes.end(), node) - nodes.begin());
  };
  for (const int32_t node : nodes) {
    const Growth::Node& n = growth.nodes()[static_cast<size_t>(node)];
    const uint64_t above =
        n.parent < 0
            ? (uint64_t{1} << final) - 1
            : static_cast<uint64_t>(rows.masks[static_cast<size_t>(start + place(n.parent))]);
    add(row, n.token, fed - k + n.depth - 1, above | uint64_t{1} << place(node));
    branched = true;
  }
  for (const int32_t end : growth.front())
    rows.ends.push_back(start + (end < 0 ? final - 1 : place(end)));
}

void BlockPass::run(float* logits) {
  const int64_t value = block.bf16 ? 2 : 4, width = block.hidden_size * value;
  const int64_t count = rows.count();
  if (count == 0) return;
  char* states = memory.at_least(RoundMemory::states, count * width);
  for (size_t i = 0; i < hidden.size(); ++i)
    std::memcpy(states + static_cast<int64_t>(i) * width, hidden[i], static_cast<size_t>(width));
  const int64_t elements = count * caches.staged_per_token();
  char* staged = memory.at_least(RoundMemory::staged, elements * value);
  if (!branched) rows.masks.clear();
  run_block(block, caches, rows, states, memory.at_least(RoundMemory::x, count * width), staged,
            logits);
  commit_staged(Check("commit_mtp"), caches,
                dense(staged, block.bf16 ? DType::bf16 : DType::f32, {elements}),
                edges_view(rows.edges), edges_view(committed), std::nullopt);
}

// Known rows that a block's ring would have lost by `fed` are passed over. What follows fills the
// whole ring: lanes that a wrapped ring was never given would be read as numbers.
void pass_over(const CacheLayers& caches, int64_t row, int64_t fed) {
  const CommitLayer& layer = caches.layers.front();
  if (!layer.held_from) return;
  const int64_t needed = std::max<int64_t>(fed / 64 - layer.keys.shape[2], 0) * 64;
  int64_t& length = caches.lengths.as<int64_t>()[row];
  if (needed <= length) return;
  length = needed;
  layer.held_from->as<int64_t>()[row] = needed;
}

// Of each row of logits the `width` largest, equals by their id, after `ids`, which holds the
// first.
void likeliest(const float* x, int64_t vocab, int64_t width, std::vector<int64_t>& ids) {
  const int64_t first = ids.front();
  const auto before = [x](int64_t a, int64_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); };
  for (int64_t id = 0; id < vocab; ++id) {
    const bool full = static_cast<int64_t>(ids.size()) == width;
    if (id == first || (full && !(x[id] > x[ids.back()]))) continue;
    if (full) ids.pop_back();
    ids.insert(std::upper_bound(ids.begin() + 1, ids.end(), id, before), id);
  }
}

// The `width` likeliest tokens of every row of logits with their log-probabilities.
void children(const float* logits, int64_t rows, int64_t vocab, int64_t width,
              std::vector<int64_t>& tokens, std::vector<float>& logprobs) {
  std::vector<int64_t> best(static_cast<size_t>(rows)), zeros(static_cast<size_t>(rows));
  std::vector<float> greedy(static_cast<size_t>(rows)), top(static_cast<size_t>(rows));
  SampleProblem p{};
  p.rows = rows;
  p.vocab = vocab;
  p.logits = logits;
  p.logits_stride = vocab;
  p.seed = p.position = zeros.data();
  p.temperature = greedy.data();
  p.ids = best.data();
  p.logprobs = top.data();
  p.layout = plan_sample_scratch(p);
  p.scratch = scratch(p.layout.bytes * omp_get_max_threads());
  if (!sampling_kernels_for_isa().sample_f32(p))
    Check("draft").fail("logits", "an MTP block's logits that are finite or -inf", "NaN or +inf");
  tokens.clear();
  logprobs.clear();
  for (int64_t row = 0; row < rows; ++row) {
    const float* x = logits + row * vocab;
    std::vector<int64_t> ids = {best[static_cast<size_t>(row)]};
    if (width > 1) likeliest(x, vocab, std::min(width, vocab), ids);
    for (const int64_t id : ids) {
      tokens.push_back(id);
      logprobs.push_back(top[static_cast<size_t>(row)] + (x[id] - x[ids.front()]));
    }
  }
}

}  // namespace

std::vector<Draft> draft_blocks(const RoundModel& model, std::vector<SpeculativeRow>& state,
                                const std::vector<RoundRow>& rows, const DraftShape& shape,
                                RoundMemory& memory, int64_t& steps) {
  std::vector<Growth> growths(rows.size());
  const int64_t batch = model.caches.lengths.numel();
  const auto* fed = model.caches.lengths.as<int64_t>();
  std::vector<int64_t> tokens;
  std::vector<float> logprobs;
  for (size_t depth = 0; depth < model.blocks.size(); ++depth) {
    const auto k = static_cast<int64_t>(depth);
    const auto pass = [&] {
      return BlockPass{model, state, memory, k, *model.blocks[depth], *model.block_caches[depth]};
    };
    BlockPass ahead = pass(), drafting = pass();
    ahead.rows.edges.push_back(0);
    std::vector<int64_t> finals;
    size_t next = 0;
    for (int64_t row = 0; row < batch; ++row) {
      if (next < rows.size() && rows[next].row == row) {
        Growth& growth = growths[next];
        const HiddenRing& hidden = state[static_cast<size_t>(row)].hidden;
        const int64_t n = fed[row];
        int64_t final = 0;
        if (rows[next].blocks && k < rows[next].depth &&
            n > std::max(k, k ? 0 : *drafting.length(row)))
          pass_over(drafting.caches, row, n - k - 1);
        else
          growth.stop();
        const int64_t length = *drafting.length(row);
        if (hidden.end() != n || hidden.first() > std::min(length, n - k)) growth.stop();
        if (!growth.front().empty()) {
          final = std::max<int64_t>(n - k - length, 0);
          // Block 0 proposes from its last final row.
          const int64_t early = final > kFinalBesideDrafts ? final - (k == 0) : 0;
          ahead.add_final(row, early);
          final -= early;
        }
        finals.push_back(final);
        ++next;
      }
      ahead.rows.edges.push_back(ahead.rows.count());
    }
    ahead.rows.masks.clear();
    ahead.run(nullptr);

    drafting.rows.edges.push_back(0);
    next = 0;
    for (int64_t row = 0; row < batch; ++row) {
      if (next < rows.size() && rows[next].row == row) {
        if (!growths[next].front().empty()) {
          drafting.add_final(row, finals[next]);
          drafting.add_private(row, fed[row], finals[next], growths[next]);
        }
        ++next;
      }
      drafting.rows.edges.push_back(drafting.rows.count());
    }
    const auto ends = static_cast<int64_t>(drafting.rows.ends.size());
    if (ends == 0) break;
    const int64_t vocab = drafting.block.draft_head.layout.outputs;
    auto* logits = reinterpret_cast<float*>(memory.at_least(RoundMemory::logits, ends * vocab * 4));
    drafting.run(logits);
    ++steps;
    children(logits, ends, vocab, shape.width, tokens, logprobs);
    size_t at = 0;
    for (Growth& growth : growths) {
      const size_t count = growth.front().size() * tokens.size() / static_cast<size_t>(ends);
      growth.grow({tokens.begin() + at, tokens.begin() + at + count},
                  {logprobs.begin() + at, logprobs.begin() + at + count}, shape);
      at += count;
    }
  }
  std::vector<Draft> drafts;
  for (const Growth& growth : growths) drafts.push_back(growth.best(shape));
  return drafts;
}

}  // namespace mn
