// Host launchers of the CUDA kernels of this family: sorting (token, slot) pairs by expert, the sum
// over a token's slots, SwiGLU. The products are those of gemm.
#pragma once

#include <cuda_runtime_api.h>

#include "experts/problem.h"
#include "gemm/row_tiles_cuda.h"

namespace mn {

inline constexpr int kSortThreads = 1024;  // pairs of a block

inline int64_t sort_chunks(int64_t pairs) { return (pairs + kSortThreads - 1) / kSortThreads; }

// Within an expert rows keep the order of (token, slot).
struct SortSm80Problem {
  const int32_t* ids;  // [pairs]
  int32_t pairs, slots, experts;
  int32_t* bins;   // scratch [sort_chunks, experts]; null where there is one chunk
  RowTile* tiles;  // [row_tiles]
  int32_t tile_rows, row_tiles;
  int32_t* token;     // [pairs] token of each sorted row
  int32_t* position;  // [pairs] sorted row of each pair; -1 where its id is no expert
};

void sort_pairs_sm80(const SortSm80Problem& problem, cudaStream_t stream);

// y[t, :] = sum over slots k, in order, of weights[t, k] * products[position[t, k], :]; NaN for a
// token with a slot that has no row.
struct CombineSm80Problem {
  int64_t tokens, slots, width;
  const float* products;    // [rows, width]
  const int32_t* position;  // [tokens, slots]
  const float* weights;     // [tokens, slots]
  void* y;                  // [tokens, width]
  bool y_bf16;
};

void combine_slots_sm80(const CombineSm80Problem& problem, cudaStream_t stream);

void swiglu_f32_sm80(const SwigluProblem& problem, cudaStream_t stream);
void swiglu_bf16_sm80(const SwigluProblem& problem, cudaStream_t stream);

}  // namespace mn
