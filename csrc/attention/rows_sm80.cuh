// Which queries and keys a block of the attention kernel works on, and what a query sees.
#pragma once

#include "attention/problem_sm80.h"

namespace mn {

__device__ inline int integer_at(const DeviceIntegers& x, int i) {
  return static_cast<int>(x.wide ? static_cast<const int64_t*>(x.data)[i]
                                 : static_cast<const int32_t*>(x.data)[i]);
}

__device__ inline int clamp_between(int x, int low, int high) { return min(max(x, low), high); }

struct TokenRange {
  int begin, count;
};

// Edges that do not rise or leave the tensor describe nothing, but lead nowhere either.
__device__ inline TokenRange tokens_of(const DeviceIntegers& edges, int sequence, int each,
                                       int total) {
  if (!edges.data) return {sequence * each, each};
  const int begin = clamp_between(integer_at(edges, sequence), 0, total);
  const int end = clamp_between(integer_at(edges, sequence + 1), begin, total);
  return {begin, end - begin};
}

// The first element of a sequence whose first token, among all, is `first`.
__device__ inline int64_t start_of(const SequenceTensor& t, const DeviceIntegers& edges,
                                   int sequence, int first) {
  return edges.data ? first * t.token_stride : sequence * t.row_stride;
}

// A block's tokens of one sequence, and the tiles of keys in their sight: first committed, then new
// ones.
struct Block {
  int sequence, kv_head;
  int first_token, tokens;  // within the sequence
  int first_q, first_k;     // first token of the sequence, among all
  int keys, length;         // new and committed keys
  int offset;               // the position of token 0
  int first_committed;      // the first committed key that any query sees
  int committed_tile, committed_tiles, new_tile, new_tiles;
  int lowest, highest;  // positions that every query of the block sees: [lowest, highest]
};

__device__ inline bool find_block(const AttentionSm80Problem& p, int tile_tokens, Block& b) {
  int tile = static_cast<int>(blockIdx.x), sequence = 0;
  TokenRange q{};
  for (; sequence < p.sequences; ++sequence) {
    q = tokens_of(p.q_edges, sequence, p.q_tokens, p.total_q);
    const int tiles = (q.count + tile_tokens - 1) / tile_tokens;
    if (tile < tiles) {
      tile = tiles - 1 - tile;  // the last tile of a causal sequence has the most work
      break;
    }
    tile -= tiles;
  }
  if (sequence == p.sequences) return false;
  TokenRange k = tokens_of(p.k_edges, sequence, p.k_tokens, p.total_k);
  if (p.key_lengths.data) k.count = clamp_between(integer_at(p.key_lengths, sequence), 0, k.count);
  b.sequence = sequence;
  b.kv_head = static_cast<int>(blockIdx.y);
  b.first_token = tile * tile_tokens;
  b.tokens = min(tile_tokens, q.count - b.first_token);
  b.first_q = q.begin;
  b.first_k = k.begin;
  b.keys = k.count;
  b.length = p.cache_keys ? static_cast<int>(p.lengths[sequence]) : 0;
  b.offset = k.count - q.count;
  // Of a tree any node may stand at any depth.
  const int first = p.ancestors ? 0 : b.offset + b.first_token;
  const int last = p.ancestors ? b.keys - 1 : first + b.tokens - 1;
  const int begin = first - p.window + 1;
  const int end = (p.causal ? min(b.keys - 1, last) : b.keys - 1) + 1;
  b.first_committed = max(0, b.length + begin);
  b.committed_tile = b.first_committed / kSm80KeyTile;
  b.committed_tiles = max(0, (b.length + kSm80KeyTile - 1) / kSm80KeyTile - b.committed_tile);
  b.new_tile = max(0, begin) / kSm80KeyTile;
  b.new_tiles = max(0, (max(0, end) + kSm80KeyTile - 1) / kSm80KeyTile - b.new_tile);
  b.lowest = last - p.window + 1;
  b.highest = p.causal ? first : b.keys - 1;
  return true;
}

// A query: it sees the positions [lowest, highest], of a tree's new keys those in its mask.
struct Query {
  int lowest, highest;
  uint64_t mask;
};

// Of a row that is none.
inline constexpr Query kBlindQuery{1, 0, 0};

__device__ inline Query query_of(const AttentionSm80Problem& p, const Block& b, int token) {
  if (p.ancestors) {
    const auto mask = static_cast<uint64_t>(p.ancestors[b.first_q + b.first_token + token]);
    return {__popcll(mask) - 1 - p.window + 1, b.keys - 1, mask};
  }
  const int position = b.offset + b.first_token + token;
  return {position - p.window + 1, p.causal ? min(position, b.keys - 1) : b.keys - 1, 0};
}

// A tile of keys: its first position, the end of those that exist, and where they are stored.
struct KeyTile {
  int position;
  bool committed;
};

__device__ inline KeyTile tile_at(const Block& b, int tile) {
  if (tile < b.committed_tiles) return {(b.committed_tile + tile) * kSm80KeyTile - b.length, true};
  return {(b.new_tile + tile - b.committed_tiles) * kSm80KeyTile, false};
}

// The tiles that a split of the keys takes.
struct KeyRange {
  int begin, end;
};

__device__ inline KeyRange keys_of_split(const Block& b, int splits) {
  const int tiles = b.committed_tiles + b.new_tiles, share = (tiles + splits - 1) / splits;
  const int begin = min(tiles, static_cast<int>(blockIdx.z) * share);
  return {begin, min(tiles, begin + share)};
}

// Of a draft tree, the depths of its nodes, at most a tile of them.
__device__ inline void note_depths(const AttentionSm80Problem& p, const Block& b, int* depths) {
  const int node = static_cast<int>(threadIdx.x);
  if (!p.ancestors || node >= kSm80KeyTile) return;
  depths[node] =
      node < b.keys ? __popcll(static_cast<uint64_t>(p.ancestors[b.first_q + node])) - 1 : 0;
}

// Whether the query sees key `key` of the tile.
__device__ inline bool sees(const AttentionSm80Problem& p, const Query& q, const KeyTile& at,
                            int key, const int* depths) {
  if (p.ancestors && !at.committed) return (q.mask >> key & 1) != 0 && depths[key] >= q.lowest;
  const int position = at.position + key;
  return position >= q.lowest && position <= (at.committed ? -1 : q.highest);
}

}  // namespace mn
