// Cuts rows that are sorted by group into blocks and tiles, and outputs into jobs. Only the work is
// cut: no choice made here changes a bit of the result.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gemm/problem.h"

namespace mn {

struct RowPlan {
  std::vector<RowBlock> blocks;
  std::vector<int32_t> group_first;
  int64_t rows = 0;
  int64_t most_rows = 0, most_tiles = 0;  // of one block

  Rows view() const;
  std::string describe() const;
};

// `tile_rows`: the most rows of a register tile.
RowPlan plan_rows(const int64_t* group_sizes, int64_t groups, int tile_rows);

// Panels of one job: enough jobs to balance the threads, long enough ones to be worth handing out.
int64_t plan_panels_per_job(int64_t panels, const RowPlan& rows, int threads);

}  // namespace mn
