// How attention is laid over a GPU: plain numbers, so that a plan can be printed and tested alone.
#pragma once

#include <cstdint>

namespace mn {

inline constexpr int kSm80Threads = 128;    // four warps
inline constexpr int kSm80KeyTile = 64;     // keys per step of the online softmax
inline constexpr int kSm80MostSplits = 32;  // a lane each when they are merged
inline constexpr int kSm80MostRows = 64;    // rows of a block, and so query heads of a kv head
inline constexpr int kSm80MostQk = 256, kSm80MostV = 128;  // head dims
inline constexpr int kSm80NoWindow = 1 << 30;

struct AttentionSm80Sizes {
  int sequences;
  int64_t tokens, longest;  // queries in all, and of a sequence at most
  int64_t most_keys;        // of a sequence at most, committed and new
  int q_heads, kv_heads, dim_qk, dim_v;
  int window;
  int element;  // bytes: 2, bf16, or 4
  int multiprocessors;
};

struct AttentionSm80Plan {
  // A block has 16 rows per row warp, a row being one query head of one token. With one row warp
  // the four warps share its rows and each takes a quarter of every key tile; in float32, of the
  // rows.
  int row_warps;    // 4 or 1
  int tile_tokens;  // tokens of a block; its rows are theirs times the query heads of a kv head
  int64_t tiles;    // blocks per kv head and split; some may find nothing to do
  int splits;       // of the keys; more than one: a second kernel merges them
  int64_t shared_bytes;
  bool released_dims;  // 192/128, for which there is a kernel of its own
};

AttentionSm80Plan plan_attention_sm80(const AttentionSm80Sizes& sizes);

}  // namespace mn
