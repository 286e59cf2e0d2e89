// How RMSNorm and the rotary embedding are laid over a GPU: plain numbers, so that a plan can be
// printed and tested alone.
#pragma once

#include "norm_rope/problem.h"

namespace mn {

inline constexpr int kRmsNormThreads = 256;  // per block

struct RmsNormPlan {
  bool wide;            // loads of 16 bytes; false: element by element
  int threads_per_row;  // a power of two, 32 .. kRmsNormThreads
  int rows_per_block;
  unsigned blocks;
};

// `x_size` and `weight_size` are bytes per element. `rows` must be positive.
RmsNormPlan plan_rms_norm(const RmsNormProblem& problem, int x_size, int weight_size);

inline constexpr int kRopeThreads = 256;  // at most, per block

struct RopePlan {
  bool wide;        // loads of 16 bytes; false: element by element
  int head_items;   // loads of a q or k head: one for each of both halves, one for the rest
  int value_items;  // loads of a v head
  int threads;      // per block
  unsigned blocks_per_token;
};

// A layer's cache that new keys and values are written to: token t of the call is position
// positions[t] of row rows[t]. Keys [cache_rows][k heads][capacity][k dim], values likewise.
struct RopeCacheSm80 {
  const int64_t* rows;
  const int64_t* positions;
  int64_t cache_rows, capacity;
  void* keys;
  void* values;
};

// `size` is bytes per element; `cache` may be null.
RopePlan plan_rope(const RopeProblem& problem, const RopeCacheSm80* cache, int size);

inline constexpr int kMostRopePairs = 256;  // their frequencies travel in the launch

struct RopeTableProblem {
  int64_t tokens;
  int half;  // pairs
  const int64_t* positions;
  float* table;  // [tokens][2 * half]
  float frequency[kMostRopePairs];
};

}  // namespace mn
