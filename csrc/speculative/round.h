// One round of speculative decoding: drafts from the MTP blocks, one pass of the model over every
// row's tree, the walks that draw tokens, and what enters the caches. The definition is
// inference/speculation and Engine in Python; tokens, log-probabilities and caches have its bits.
#pragma once

#include <optional>

#include "model/block.h"
#include "speculative/rows.h"

namespace mn {

struct RoundModel {
  const Decoder& decoder;
  const CacheLayers& caches;
  std::vector<const Decoder*> blocks;
  std::vector<const CacheLayers*> block_caches;
};

struct RoundRow {
  int64_t row;         // of the caches; ascending among the rows of a round
  int64_t depth;       // of the deepest draft that may be used
  Draft extra;         // verified beside what the blocks draft
  bool blocks = true;  // whether these draft
};

struct Walk {
  int64_t matched;                   // tokens before the copied ones; 0: none were copied
  int64_t copied = 0, extended = 0;  // below the blocks' draft, and the tokens before these
  Draft draft;
  std::vector<int64_t> path;    // accepted nodes, the root being node 0
  std::vector<int64_t> tokens;  // drawn, one more than accepted
  std::vector<float> logprobs;
};

struct RoundResult {
  std::vector<Walk> walks;
  double draft_seconds, verify_seconds;
  int64_t steps;       // passes of MTP blocks that drafts took
  bool quiet = false;  // whether nobody need be told
};

// Memory between the rounds of one caller.
class RoundMemory {
 public:
  enum Use { states, x, staged, logits, count };
  char* at_least(Use use, int64_t bytes) {
    std::vector<char>& held = held_[use];
    if (static_cast<int64_t>(held.size()) < bytes) held.resize(static_cast<size_t>(bytes));
    return held.data();
  }

 private:
  std::vector<char> held_[count];
};

// Drafts of the MTP blocks for every row; commits what the blocks see of known tokens.
std::vector<Draft> draft_blocks(const RoundModel& model, std::vector<SpeculativeRow>& state,
                                const std::vector<RoundRow>& rows, const DraftShape& shape,
                                RoundMemory& memory, int64_t& steps);

// Every row has fed all tokens but its last. Appends the drawn tokens to the rows' own.
RoundResult run_round(const RoundModel& model, std::vector<SpeculativeRow>& state,
                      std::vector<RoundRow> rows, const DraftShape& shape, const CopyRule& copies,
                      RoundMemory& memory);

}  // namespace mn
