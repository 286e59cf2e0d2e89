#include "attention/plan_sm80.h"

#include <algorithm>

namespace mn {
namespace {

constexpr int64_t kTilesPerSplit = 4;  // at least: a split costs a partial result
constexpr int64_t kBlocksPerProcessor = 2;
constexpr int64_t kShortRows = 32;  // rows of a sequence up to which the warps share the rows

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bytes of a row in shared memory: a multiple of 32 and 16 more, so that eight rows lie on
// different banks.
int64_t row_bytes(int64_t dim, int64_t element) { return divide_up(dim * element, 32) * 32 + 16; }

}  // namespace

AttentionSm80Plan plan_attention_sm80(const AttentionSm80Sizes& s) {
  AttentionSm80Plan plan{};
  const int64_t group = s.q_heads / s.kv_heads;
  // Without matrix instructions more rows of a block save no time.
  const bool few = (s.element == 4 || s.tokens * group <= kShortRows * s.sequences) && group <= 16;
  plan.row_warps = few ? 1 : 4;
  const int64_t rows = 16 * plan.row_warps;
  plan.tile_tokens = static_cast<int>(rows / group);
  // The sequences' own lengths are not known here; a tile holds tokens of one of them.
  plan.tiles = std::min({s.tokens, s.tokens / plan.tile_tokens + s.sequences,
                         s.sequences * divide_up(s.longest, plan.tile_tokens)});
  const int64_t in_sight = std::min<int64_t>(s.most_keys, int64_t{s.window} + plan.tile_tokens);
  const int64_t blocks = std::max<int64_t>(plan.tiles * s.kv_heads, 1);
  plan.splits = static_cast<int>(
      std::clamp<int64_t>(std::min(kBlocksPerProcessor * s.multiprocessors / blocks,
                                   divide_up(in_sight, kSm80KeyTile) / kTilesPerSplit),
                          1, kSm80MostSplits));
  plan.released_dims = s.element == 2 && s.dim_qk == 192 && s.dim_v == 128;
  const int64_t tiles_bytes = (rows + kSm80KeyTile) * row_bytes(s.dim_qk, s.element) +
                              kSm80KeyTile * row_bytes(s.dim_v, s.element);
  // The results of four warps, on their way out, take the tiles' place.
  const int64_t staged_bytes = 4 * 16 * (divide_up(s.dim_v, 16) * 16 + 8) * 4;
  plan.shared_bytes = std::max(tiles_bytes, staged_bytes);
  return plan;
}

}  // namespace mn
