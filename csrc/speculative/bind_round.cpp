#include <pybind11/stl.h>

#include "runtime/module.h"
#include "runtime/tensor_caster.h"
#include "speculative/problem.h"
#include "speculative/round.h"

namespace mn {
namespace {

namespace py = pybind11;

void read_lengths(const Check& check, const std::vector<int64_t>& given, const char* name,
                  std::array<int64_t, kLongestMatch + 1>& lengths) {
  if (given.size() > lengths.size())
    check.fail(name, "a length by match, 0 to 8", std::to_string(given.size()) + " lengths");
  for (size_t i = 0; i < given.size(); ++i) {
    check.range(given[i], name, 0, kMostNodes - 1);
    lengths[i] = given[i];
  }
}

// What rounds draft, from the blocks and from the text.
struct RoundPlan {
  DraftShape shape;
  CopyRule copies;

  RoundPlan(int64_t width, int64_t beam, int64_t budget, double least_step, double least_node,
            const std::vector<int64_t>& copied, bool beside, const std::vector<int64_t>& extended,
            std::shared_ptr<TextRecord> record)
      : shape{width, beam, budget, least_step, least_node}, copies{.beside = beside} {
    copies.record = std::move(record);
    const Check check("round_plan");
    for (const auto& [value, name] :
         {std::pair{width, "width"}, {beam, "beam"}, {budget, "budget"}})
      check.range(value, name, 0, kMostNodes - 1);
    read_lengths(check, copied, "copied", copies.lengths);
    read_lengths(check, extended, "extended", copies.extended);
  }
};

// The rows of one engine's cache.
class SpeculativeRows {
 public:
  SpeculativeRows(int64_t rows, int64_t row_bytes, int64_t capacity)
      : row_bytes_(row_bytes),
        rows_(static_cast<size_t>(rows), SpeculativeRow{{}, {}, HiddenRing(row_bytes, capacity)}) {}

  // A request takes over a row, whose hidden states stay where the cache keeps its tokens.
  void open(int64_t row, const std::vector<int32_t>& tokens, int64_t seed, float temperature,
            int32_t top_k, float top_p, float min_p, float repetition_penalty,
            float presence_penalty, float frequency_penalty, int32_t prompt_len) {
    SpeculativeRow& r = at(row);
    r.tokens = tokens;
    r.sampling = {seed,
                  temperature,
                  top_k,
                  top_p,
                  min_p,
                  repetition_penalty,
                  presence_penalty,
                  frequency_penalty,
                  prompt_len};
  }
  void extend(int64_t row, const std::vector<int32_t>& tokens) {
    SpeculativeRow& r = at(row);
    r.tokens.insert(r.tokens.end(), tokens.begin(), tokens.end());
  }
  // Tokens [start, start + count) of a pass with hidden [1, N, D] stand at `position` and after.
  void observe(int64_t row, const Tensor& hidden, int64_t start, int64_t count, int64_t position) {
    const Check check("observe");
    check.shape(hidden, "hidden", {1, kAny, kAny}, "[1, N, D]");
    check.contiguous(hidden, "hidden");
    check.on_cpu(hidden, "hidden");
    check.range(start, "start", 0, hidden.shape[1]);
    check.range(count, "count", 0, hidden.shape[1] - start);
    if (hidden.shape[2] * size_of(hidden.dtype) != row_bytes_)
      check.fail("hidden", std::to_string(row_bytes_) + " bytes a token", hidden.describe());
    at(row).hidden.append(hidden.as<char>() + start * row_bytes_, count, position);
  }
  void forget(int64_t row) { at(row).hidden.clear(); }
  std::pair<std::vector<int64_t>, int64_t> find_copy(int64_t row, int64_t length) {
    return look_up(at(row).tokens, length);
  }
  // What the rounds from now on run; the caller keeps it alive.
  void attach(const Decoder& decoder, const CacheLayers& caches,
              const std::vector<const Decoder*>& blocks,
              const std::vector<const CacheLayers*>& block_caches) {
    const Check check("speculative_rows");
    if (block_caches.size() != blocks.size() || (!blocks.empty() && row_bytes_ == 0))
      check.fail("caches", "one per MTP block", std::to_string(block_caches.size()));
    if (const int64_t batch = caches.lengths.numel(); batch != static_cast<int64_t>(rows_.size()))
      check.fail("cache", std::to_string(rows_.size()) + " rows", std::to_string(batch));
    model_.emplace(RoundModel{decoder, caches, blocks, block_caches});
  }
  py::tuple round(
      const std::vector<std::tuple<int64_t, int64_t, std::vector<int64_t>, std::vector<int64_t>>>&
          requests,
      const RoundPlan& plan);

 private:
  SpeculativeRow& at(int64_t row) {
    Check("speculative_rows").range(row, "row", 0, static_cast<int64_t>(rows_.size()) - 1);
    return rows_[static_cast<size_t>(row)];
  }

  int64_t row_bytes_;
  std::vector<SpeculativeRow> rows_;
  std::optional<RoundModel> model_;
  RoundMemory memory_;
};

void check_extra(const Check& check, const Draft& extra, int64_t vocab) {
  std::vector<int64_t> tokens = {0}, parents = {-1};
  if (extra.tokens.size() != extra.parents.size() || extra.size() >= kMostNodes)
    check.fail("draft", "at most 63 tokens, each with its parent", std::to_string(extra.size()));
  for (size_t i = 0; i < extra.tokens.size(); ++i) {
    if (extra.tokens[i] < 0 || extra.tokens[i] >= vocab)
      check.fail("draft", "token ids below " + std::to_string(vocab),
                 std::to_string(extra.tokens[i]));
    tokens.push_back(extra.tokens[i]);
    parents.push_back(extra.parents[i] + 1);
  }
  const auto nodes = static_cast<int64_t>(tokens.size());
  if (const TreeCheck found = check_tree(nodes, tokens.data(), parents.data());
      found.fault != TreeFault::none)
    check.fail("draft", "parents before their children, siblings that differ",
               "a fault at node " + std::to_string(found.node));
}

py::tuple SpeculativeRows::round(
    const std::vector<std::tuple<int64_t, int64_t, std::vector<int64_t>, std::vector<int64_t>>>&
        requests,
    const RoundPlan& plan) {
  const Check check("speculative_round");
  if (!model_) check.fail("rows", "a model attached", "none");
  const auto& [decoder, caches, blocks, block_caches] = *model_;
  const auto heads = static_cast<int64_t>(blocks.size());
  check.range(plan.shape.beam, "beam", 0, (kMostNodes - 8) / std::max<int64_t>(heads, 1));
  const int64_t batch = caches.lengths.numel();
  std::vector<RoundRow> rows;
  for (const auto& [row, depth, tokens, parents] : requests) {
    check.range(row, "row", rows.empty() ? 0 : rows.back().row + 1, batch - 1);
    const int64_t known = static_cast<int64_t>(rows_[static_cast<size_t>(row)].tokens.size());
    const int64_t fed = caches.lengths.as<int64_t>()[row];
    if (known != fed + 1)
      check.fail("tokens", "one more than the cache's " + std::to_string(fed),
                 std::to_string(known));
    rows.push_back({row, depth, {tokens, parents}, true});
    check_extra(check, rows.back().extra, decoder.head.layout.outputs);
  }
  RoundResult result;
  {
    const py::gil_scoped_release release;
    result = run_round(*model_, rows_, std::move(rows), plan.shape, plan.copies, memory_);
  }
  py::list walks;
  for (Walk& walk : result.walks)
    walks.append(py::make_tuple(
        walk.tokens, walk.logprobs, walk.path, py::tuple(py::cast(walk.draft.tokens)),
        py::tuple(py::cast(walk.draft.parents)), walk.matched, walk.copied, walk.extended));
  return py::make_tuple(walks, result.draft_seconds, result.verify_seconds, result.steps,
                        result.quiet);
}

}  // namespace

void bind_speculative_round(py::module_& m) {
  py::class_<TextRecord, std::shared_ptr<TextRecord>>(m, "TextRecord")
      .def(py::init<>())
      .def_property_readonly("first", [](const TextRecord& record) { return record.now().first; })
      .def_property_readonly("after", [](const TextRecord& record) { return record.now().after; })
      .def_property_readonly("level", &TextRecord::level)
      .def_readonly("surprise", &TextRecord::surprise)
      .def_readonly("idle", &TextRecord::idle)
      .def(
          "tell",
          [](TextRecord& record, int64_t due) {
            record.idle = 0;
            record.due = due;
            record.told = record.level();
          },
          py::arg("due"))
      .def("draw", &TextRecord::draw, py::arg("logprobs"))
      .def(
          "note",
          [](TextRecord& record, int64_t matched, const std::vector<int64_t>& copied,
             const std::vector<int64_t>& drawn) {
            Check("note").range(matched, "matched", 0, kLongestMatch);
            record.note(matched, copied, drawn.data(), static_cast<int64_t>(drawn.size()));
          },
          py::arg("matched"), py::arg("copied"), py::arg("drawn"))
      .def("lengths", &TextRecord::lengths, py::kw_only(), py::arg("value"), py::arg("node"),
           py::arg("plain"), py::arg("best"))
      .def_static("worthwhile", &worthwhile, py::kw_only(), py::arg("first"), py::arg("after"),
                  py::arg("value"), py::arg("node"));
  py::class_<RoundPlan>(m, "RoundPlan")
      .def(py::init<int64_t, int64_t, int64_t, double, double, const std::vector<int64_t>&, bool,
                    const std::vector<int64_t>&, std::shared_ptr<TextRecord>>(),
           py::kw_only(), py::arg("width"), py::arg("beam"), py::arg("budget"),
           py::arg("least_step"), py::arg("least_node"), py::arg("copied"), py::arg("beside"),
           py::arg("extended"), py::arg("record"));
  py::class_<SpeculativeRows>(m, "SpeculativeRows")
      .def(py::init<int64_t, int64_t, int64_t>(), py::arg("rows"), py::arg("row_bytes"),
           py::arg("capacity"))
      .def("open", &SpeculativeRows::open, py::arg("row"), py::arg("tokens"), py::arg("seed"),
           py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"),
           py::arg("repetition_penalty"), py::arg("presence_penalty"), py::arg("frequency_penalty"),
           py::arg("prompt_len"))
      .def("extend", &SpeculativeRows::extend, py::arg("row"), py::arg("tokens"))
      .def("observe", &SpeculativeRows::observe, py::arg("row"), py::arg("hidden"),
           py::arg("start"), py::arg("count"), py::arg("position"))
      .def("forget", &SpeculativeRows::forget, py::arg("row"))
      .def("find_copy", &SpeculativeRows::find_copy, py::arg("row"), py::arg("length"))
      .def("attach", &SpeculativeRows::attach, py::arg("decoder"), py::arg("caches"),
           py::arg("blocks"), py::arg("block_caches"))
      .def("round", &SpeculativeRows::round, py::arg("requests"), py::arg("plan"));
}

}  // namespace mn
