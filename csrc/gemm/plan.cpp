#include "gemm/plan.h"

#include <algorithm>

namespace mn {
namespace {

// Rows of a block: with 4096 inputs its packed rows fill most of a 1 MiB L2.
constexpr int64_t kBlockRows = 96;
constexpr int64_t kJobsPerThread = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Rows RowPlan::view() const {
  return {.blocks = blocks.data(),
          .count = static_cast<int64_t>(blocks.size()),
          .group_first = group_first.data(),
          .groups = static_cast<int64_t>(group_first.size()) - 1,
          .most_tiles = most_tiles};
}

std::string RowPlan::describe() const {
  std::string text = std::to_string(rows) + " rows in " + std::to_string(blocks.size()) + " blocks";
  for (const RowBlock& b : blocks)
    text += "\n  group " + std::to_string(b.group) + ": rows " + std::to_string(b.first_row) +
            " + " + std::to_string(b.rows) + ", tiles of " + std::to_string(b.height);
  return text;
}

RowPlan plan_rows(const int64_t* group_sizes, int64_t groups, int tile_rows) {
  RowPlan plan;
  plan.group_first.reserve(static_cast<size_t>(groups) + 1);
  for (int64_t g = 0; g < groups; ++g) {
    plan.group_first.push_back(static_cast<int32_t>(plan.blocks.size()));
    const int64_t size = group_sizes[g];
    if (size == 0) continue;
    // Equal tiles rather than full ones and a rest: a low tile leaves the multipliers idle.
    const int64_t tiles = ceil_div(size, tile_rows);
    const int64_t blocks = ceil_div(tiles * tile_rows, std::max<int64_t>(kBlockRows, tile_rows));
    const int64_t block_rows = ceil_div(size, blocks);
    for (int64_t row = 0; row < size; row += block_rows) {
      const int64_t rows = std::min(block_rows, size - row);
      const int64_t block_tiles = ceil_div(rows, tile_rows);
      plan.blocks.push_back({.group = static_cast<int32_t>(g),
                             .rows = static_cast<int32_t>(rows),
                             .height = static_cast<int32_t>(ceil_div(rows, block_tiles)),
                             .first_row = plan.rows + row});
      plan.most_rows = std::max(plan.most_rows, rows);
      plan.most_tiles = std::max(plan.most_tiles, block_tiles);
    }
    plan.rows += size;
  }
  plan.group_first.push_back(static_cast<int32_t>(plan.blocks.size()));
  return plan;
}

int64_t plan_panels_per_job(int64_t panels, const RowPlan& rows, int threads) {
  const int64_t blocks = std::max<int64_t>(1, static_cast<int64_t>(rows.blocks.size()));
  const int64_t wanted = ceil_div(kJobsPerThread * threads, blocks);
  return std::clamp<int64_t>(panels / wanted, 1, std::max<int64_t>(1, panels));
}

}  // namespace mn
