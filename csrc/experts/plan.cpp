#include "experts/plan.h"

namespace mn {

std::string ExpertPlan::describe() const {
  int64_t hit = 0;
  for (int64_t size : sizes) hit += size > 0;
  return std::to_string(tokens) + " tokens in " + std::to_string(slots) + " slots on " +
         std::to_string(hit) + " of " + std::to_string(sizes.size()) +
         " experts: " + rows.describe();
}

ExpertPlan plan_experts(const int32_t* ids, int64_t tokens, int64_t slots, int64_t experts,
                        int tile_rows) {
  const int64_t pairs = tokens * slots;
  ExpertPlan plan;
  plan.tokens = tokens;
  plan.slots = slots;
  plan.sizes.assign(static_cast<size_t>(experts), 0);
  for (int64_t i = 0; i < pairs; ++i) ++plan.sizes[static_cast<size_t>(ids[i])];

  std::vector<int32_t> next(static_cast<size_t>(experts));
  int32_t row = 0;
  for (size_t e = 0; e < next.size(); ++e) {
    next[e] = row;
    row += static_cast<int32_t>(plan.sizes[e]);
  }
  plan.token.resize(static_cast<size_t>(pairs));
  plan.position.resize(static_cast<size_t>(pairs));
  for (int64_t t = 0, i = 0; t < tokens; ++t)
    for (int64_t k = 0; k < slots; ++k, ++i) {
      const int32_t at = next[static_cast<size_t>(ids[i])]++;
      plan.position[static_cast<size_t>(i)] = at;
      plan.token[static_cast<size_t>(at)] = static_cast<int32_t>(t);
    }
  plan.rows = plan_rows(plan.sizes.data(), experts, tile_rows);
  return plan;
}

}  // namespace mn
