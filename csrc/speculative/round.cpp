#include "speculative/round.h"

#include <omp.h>

#include <algorithm>
#include <chrono>

#include "model/pass.h"
#include "model/step.h"
#include "runtime/scratch.h"
#include "speculative/problem.h"

namespace mn {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point began) {
  return std::chrono::duration<double>(Clock::now() - began).count();
}

// Every row's tree in one pass: root and draft as nodes, packed.
struct Trees {
  std::vector<int64_t> ids, masks, parents, edges = {0};

  void add(int64_t root, const Draft& draft) {
    const size_t first = ids.size();
    ids.push_back(root);
    masks.push_back(1);
    parents.push_back(-1);
    for (size_t i = 0; i < draft.tokens.size(); ++i) {
      const auto parent = static_cast<size_t>(draft.parents[i] + 1);
      ids.push_back(draft.tokens[i]);
      parents.push_back(draft.parents[i] + 1);
      const auto above = static_cast<uint64_t>(masks[first + parent]);
      masks.push_back(static_cast<int64_t>(above | uint64_t{1} << (i + 1)));
    }
  }
};

// The controls of a row; null where they are off.
SampleProblem draw_of(const RowSampling& s, int64_t vocab) {
  SampleProblem p{};
  p.rows = 1;
  p.vocab = vocab;
  p.seed = &s.seed;
  p.temperature = &s.temperature;
  p.top_k = s.top_k > 0 ? &s.top_k : nullptr;
  p.top_p = s.top_p < 1.f ? &s.top_p : nullptr;
  p.min_p = s.min_p > 0.f ? &s.min_p : nullptr;
  if (s.penalised()) {
    p.repetition_penalty = &s.repetition_penalty;
    p.presence_penalty = &s.presence_penalty;
    p.frequency_penalty = &s.frequency_penalty;
  }
  p.prompt_lens = &s.prompt_len;
  return p;
}

// Walks down the nodes [first, first + nodes) and appends what is drawn to the row.
void walk(const Trees& trees, size_t first, int64_t nodes, const float* logits, int64_t vocab,
          SpeculativeRow& row, Walk& out) {
  const auto known = static_cast<int64_t>(row.tokens.size());
  row.tokens.resize(static_cast<size_t>(known + nodes));
  for (auto* list : {&out.path, &out.tokens}) list->resize(static_cast<size_t>(nodes));
  out.logprobs.resize(static_cast<size_t>(nodes));
  VerifyProblem p{.nodes = nodes,
                  .tokens = trees.ids.data() + first,
                  .parents = trees.parents.data() + first,
                  .logits = logits,
                  .row_bytes = vocab * 4,
                  .position = known,
                  .draw = draw_of(row.sampling, vocab),
                  .sample = sampling_kernels_for_isa().sample_f32,
                  .history = row.tokens.data(),
                  .history_len = known,
                  .path = out.path.data(),
                  .drawn = out.tokens.data(),
                  .logprobs = out.logprobs.data()};
  SampleProblem longest = p.draw;
  longest.history_len = known + nodes;
  p.draw.layout = plan_sample_scratch(longest);
  p.draw.scratch = scratch(p.draw.layout.bytes * omp_get_max_threads());
  const int64_t count = verify_tree(p);
  row.tokens.resize(static_cast<size_t>(known + count));
  out.tokens.resize(static_cast<size_t>(count));
  out.logprobs.resize(static_cast<size_t>(count));
  out.path.resize(static_cast<size_t>(std::max<int64_t>(count - 1, 0)));
}

// What could be copied in a row: the tokens, and how many before them matched.
using Found = std::pair<std::vector<int64_t>, int64_t>;

Found find_text(const CopyRule& rule, const SpeculativeRow& state) {
  const int64_t most = *std::max_element(rule.lengths.begin(), rule.lengths.end());
  if (most == 0 && !rule.record) return {};
  return look_up(state.tokens, rule.record ? kMostNodes - 1 : most);
}

// Adds copied text to a row; how many tokens before it matched.
int64_t copy_text(const CopyRule& rule, const Found& found, RoundRow& row) {
  const auto& [tokens, matched] = found;
  const int64_t length = std::min(
      {rule.lengths[static_cast<size_t>(matched)], row.depth, static_cast<int64_t>(tokens.size())});
  if (length <= 0) return 0;
  Draft copied;
  for (int64_t i = 0; i < length; ++i) {
    copied.tokens.push_back(tokens[static_cast<size_t>(i)]);
    copied.parents.push_back(i - 1);
  }
  merge(row.extra, copied, kMostNodes - 1);
  row.blocks = rule.beside;
  return matched;
}

// Copied text below the first of the deepest nodes of a draft.
void extend(const CopyRule& rule, SpeculativeRow& state, int64_t depth, Draft& draft, Walk& walk) {
  std::vector<int64_t> depths;
  int64_t tip = -1, deepest = 0;
  for (size_t i = 0; i < draft.parents.size(); ++i) {
    const int64_t parent = draft.parents[i];
    depths.push_back(parent < 0 ? 1 : depths[static_cast<size_t>(parent)] + 1);
    if (depths[i] <= deepest) continue;
    deepest = depths[i];
    tip = static_cast<int64_t>(i);
  }
  const int64_t most = *std::max_element(rule.extended.begin(), rule.extended.end());
  const int64_t room = std::min({depth - deepest, kMostNodes - 1 - draft.size(), most});
  if (tip < 0 || room <= 0) return;
  const size_t known = state.tokens.size();
  state.tokens.resize(known + static_cast<size_t>(deepest));
  for (int64_t node = tip, at = deepest; node >= 0; node = draft.parents[static_cast<size_t>(node)])
    state.tokens[known + static_cast<size_t>(--at)] =
        static_cast<int32_t>(draft.tokens[static_cast<size_t>(node)]);
  const auto [tokens, matched] = look_up(state.tokens, room, deepest);
  state.tokens.resize(known);
  const int64_t length = rule.extended[static_cast<size_t>(matched)];
  walk.copied = std::min(length, static_cast<int64_t>(tokens.size()));
  walk.extended = walk.copied > 0 ? matched : 0;
  for (int64_t i = 0; i < walk.copied; ++i) {
    draft.parents.push_back(i == 0 ? tip : draft.size() - 1);
    draft.tokens.push_back(tokens[static_cast<size_t>(i)]);
  }
}

void check_walks(std::vector<SpeculativeRow>& state, const std::vector<RoundRow>& rows,
                 const std::vector<Walk>& walks) {
  for (const Walk& walk : walks) {
    if (!walk.tokens.empty()) continue;
    for (size_t i = 0; i < rows.size(); ++i) {
      std::vector<int32_t>& tokens = state[static_cast<size_t>(rows[i].row)].tokens;
      tokens.resize(tokens.size() - walks[i].tokens.size());
    }
    Check("verify_tree")
        .fail("logits", "rows that are finite or -inf, one finite in each",
              "NaN, +inf or a row of -inf");
  }
}

}  // namespace

RoundResult run_round(const RoundModel& model, std::vector<SpeculativeRow>& state,
                      std::vector<RoundRow> rows, const DraftShape& shape, const CopyRule& copies,
                      RoundMemory& memory) {
  const Clock::time_point began = Clock::now();
  RoundResult result{std::vector<Walk>(rows.size()), 0, 0, 0};
  bool drafting = false;
  std::vector<Found> found;
  for (size_t i = 0; i < rows.size(); ++i) {
    found.push_back(find_text(copies, state[static_cast<size_t>(rows[i].row)]));
    result.walks[i].matched = copy_text(copies, found[i], rows[i]);
    drafting |= shape.width > 0 && rows[i].blocks;
  }
  std::vector<Draft> drafts(rows.size());
  if (drafting) drafts = draft_blocks(model, state, rows, shape, memory, result.steps);
  Trees trees;
  size_t next = 0;
  for (int64_t row = 0; row < model.caches.lengths.numel(); ++row) {
    if (next < rows.size() && rows[next].row == row) {
      SpeculativeRow& known = state[static_cast<size_t>(row)];
      extend(copies, known, rows[next].depth, drafts[next], result.walks[next]);
      merge(drafts[next], rows[next].extra, kMostNodes - 1);
      trees.add(known.tokens.back(), drafts[next]);
      result.walks[next].draft = std::move(drafts[next]);
      ++next;
    }
    trees.edges.push_back(static_cast<int64_t>(trees.ids.size()));
  }
  result.draft_seconds = seconds_since(began);

  const Decoder& d = model.decoder;
  const DType dtype = d.bf16 ? DType::bf16 : DType::f32;
  const int64_t n = trees.edges.back(), vocab = d.head.layout.outputs;
  const int64_t value = size_of(dtype), elements = n * model.caches.staged_per_token();
  auto* logits = reinterpret_cast<float*>(memory.at_least(RoundMemory::logits, n * vocab * 4));
  char* x = memory.at_least(RoundMemory::x, n * d.hidden_size * value);
  const Tensor staged =
      dense(memory.at_least(RoundMemory::staged, elements * value), dtype, {elements});
  const Tensor masks = dense(trees.masks.data(), DType::i64, {1, n});
  const Tensor edges = edges_view(trees.edges);
  run_step(Check("forward"), d, model.caches,
           {dense(trees.ids.data(), DType::i64, {1, n}), std::nullopt, edges, masks},
           {dense(x, dtype, {1, n, d.hidden_size}), staged, std::nullopt,
            dense(logits, DType::f32, {1, n, vocab})},
           false);

  std::vector<int64_t> committed;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto first = trees.edges[static_cast<size_t>(rows[i].row)];
    const int64_t nodes = trees.edges[static_cast<size_t>(rows[i].row) + 1] - first;
    Walk& out = result.walks[i];
    walk(trees, static_cast<size_t>(first), nodes, logits + first * vocab, vocab,
         state[static_cast<size_t>(rows[i].row)], out);
    committed.push_back(first);
    for (const int64_t node : out.path) committed.push_back(first + node);
  }
  check_walks(state, rows, result.walks);
  if (copies.record) {
    const bool idle = result.steps == 0 && std::all_of(result.walks.begin(), result.walks.end(),
                                                       [](const Walk& w) { return !w.matched; });
    result.quiet = idle && copies.record->quiet();
    for (size_t i = 0; i < rows.size(); ++i) {
      const Walk& drawn = result.walks[i];
      copies.record->note(found[i].second, found[i].first, drawn.tokens.data(),
                          static_cast<int64_t>(drawn.tokens.size()));
      copies.record->draw(drawn.logprobs);
    }
  }
  commit_staged(Check("commit"), model.caches, staged, edges, edges_view(committed),
                dense(trees.masks.data(), DType::i64, {n}));
  if (!model.blocks.empty()) {
    const int64_t width = d.hidden_size * value;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t row = rows[i].row, first = trees.edges[static_cast<size_t>(row)];
      HiddenRing& hidden = state[static_cast<size_t>(row)].hidden;
      int64_t position = model.caches.lengths.as<int64_t>()[row] - 1;
      position -= static_cast<int64_t>(result.walks[i].path.size());
      hidden.append(x + first * width, 1, position);
      for (const int64_t node : result.walks[i].path)
        hidden.append(x + (first + node) * width, 1, ++position);
    }
  }
  result.verify_seconds = seconds_since(began) - result.draft_seconds;
  return result;
}

}  // namespace mn
