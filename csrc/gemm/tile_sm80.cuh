// What the product kernels share: which tile a block makes, and how rows come to shared memory.
#pragma once

#include "gemm/plan_sm80.h"
#include "runtime/cuda/sm80.cuh"
#include "runtime/cuda/vector_sm80.cuh"

namespace mn {

// So many row tiles at a time are multiplied with all columns: their rows stay in the L2 cache
// while the weights pass by.
inline constexpr uint32_t kBandTiles = 8;

struct BlockTile {
  int group, first, end;  // rows
  int column;             // in units of tiles
};

__device__ inline BlockTile block_tile(const GemmSm80Problem& p, int tile_rows, uint32_t row_tiles,
                                       uint32_t column_tiles) {
  const uint32_t band = blockIdx.x / (kBandTiles * column_tiles);
  const uint32_t within = blockIdx.x % (kBandTiles * column_tiles);
  const uint32_t rows_of_band = min(kBandTiles, row_tiles - band * kBandTiles);
  const int row_tile = static_cast<int>(band * kBandTiles + within % rows_of_band);
  const int column = static_cast<int>(within / rows_of_band);
  if (p.tiles) {
    const RowTile t = p.tiles[row_tile];
    return {t.group, t.first, t.end, column};
  }
  const int first = row_tile * tile_rows;
  return {0, first, min(first + tile_rows, p.rows), column};
}

// Brings kRows rows of kDepth values to shared memory; Place says where a chunk of 16 bytes goes.
// A thread has the same chunk of several rows.
template <class T, int kRows, int kDepth, int kThreads, class Place>
class RowLoader {
  static constexpr int kPerChunk = 16 / sizeof(T), kChunks = kDepth / kPerChunk;
  static constexpr int kRowsAtOnce = kThreads / kChunks;
  static constexpr int kCopies = (kRows + kRowsAtOnce - 1) / kRowsAtOnce;
  static_assert(kThreads % kChunks == 0);

 public:
  // start_of(r) is the first value of row r. Values beyond the result's edges are read from any
  // valid row: they meet no value that is stored.
  template <class StartOf>
  __device__ explicit RowLoader(const StartOf& start_of)
      : row_(static_cast<int>(threadIdx.x) / kChunks),
        chunk_(static_cast<int>(threadIdx.x) % kChunks) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      from_[i] = start_of(row_ + i * kRowsAtOnce) + chunk_ * kPerChunk;
  }

  // Inputs [k, k + kDepth), zeros from `inputs` on. kWide: asynchronously.
  template <bool kWide>
  __device__ void load(uint32_t tile, int k, int inputs) const {
    const int left = min(max(inputs - k - chunk_ * kPerChunk, 0), kPerChunk);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = row_ + i * kRowsAtOnce;
      if (kRows % kRowsAtOnce && row >= kRows) break;
      const uint32_t to = tile + Place::at(row, chunk_);
      if constexpr (kWide)
        copy_async(to, from_[i] + k, left * static_cast<int>(sizeof(T)));
      else
        copy_elements(to, from_[i] + k, left);
    }
  }

 private:
  __device__ static void copy_elements(uint32_t to, const T* from, int left) {
    union {
      T value[kPerChunk];
      uint4 chunk;
    };
    chunk = {};
#pragma unroll
    for (int j = 0; j < kPerChunk; ++j)
      if (j < left) value[j] = from[j];
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(chunk.x), "r"(chunk.y),
                 "r"(chunk.z), "r"(chunk.w)
                 : "memory");
  }

  const int row_, chunk_;
  const T* from_[kCopies];
};

// Multiplies step after step while the next stages arrive: load(stage, k), multiply(stage).
template <int kDepth, int kStages, bool kWide, class Load, class Multiply>
__device__ inline void multiply_steps(int inputs, const Load& load, const Multiply& multiply) {
  const int steps = (inputs + kDepth - 1) / kDepth;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) load(s, s * kDepth);
    if constexpr (kWide) commit_copies();
  }
  int arriving = kStages - 1, ready = 0;  // stages
  for (int step = 0; step < steps; ++step) {
    // A group for every step, empty or not, so that the count of groups tells the step.
    if constexpr (kWide) wait_for_copies<kStages - 2>();
    __syncthreads();  // everybody's copies of this step are here, and the last stage is read
    if (step + kStages - 1 < steps) load(arriving, (step + kStages - 1) * kDepth);
    if constexpr (kWide) commit_copies();
    multiply(ready);
    arriving = arriving + 1 == kStages ? 0 : arriving + 1;
    ready = ready + 1 == kStages ? 0 : ready + 1;
  }
}

}  // namespace mn
