// Rows of queries, keys and values on their way to shared memory, T being what they consist of.
#pragma once

#include "attention/rows_sm80.cuh"
#include "runtime/cuda/sm80.cuh"

namespace mn {

inline constexpr int kRowThreads = 8;  // share a row; kSm80Threads / 8 rows at a time

// kRows rows of `dim` elements, padded by zeros; source(row) is where a row starts, null: nowhere.
// `anywhere` is never read. kDim is `dim`, or 0 where that is no constant.
template <int kRows, int kDim, class T, class F>
__device__ void copy_rows(uint32_t to, int row_bytes, int dim, const void* anywhere,
                          const F& source) {
  constexpr int kElements = 16 / sizeof(T);
  static_assert(kDim % (kElements * kRowThreads) == 0);
  const int chunks = (row_bytes - 16) / 16;
  const int first_chunk = static_cast<int>(threadIdx.x) % kRowThreads;
#pragma unroll(kDim ? 4 : 1)
  for (int first = 0; first < kRows; first += kSm80Threads / kRowThreads) {
    const int row = first + static_cast<int>(threadIdx.x) / kRowThreads;
    const T* from = source(row);
    const T* start = from ? from : static_cast<const T*>(anywhere);
    const int bytes = from ? 16 : 0;
#pragma unroll(kDim ? 4 : 1)
    for (int c = 0; kDim ? c < kDim / kElements : c + first_chunk < chunks; c += kRowThreads) {
      const int chunk = c + first_chunk;
      // Dims are multiples of 8: rows of float32 have no chunk beyond them.
      const bool within = sizeof(T) == 4 || chunk * kElements < dim;
      copy_async(to + row * row_bytes + chunk * 16, start + chunk * kElements, within ? bytes : 0);
    }
  }
}

template <int kRows, int kDim, class T>
__device__ void copy_queries(uint32_t to, int row_bytes, int dim, const AttentionSm80Problem& p,
                             const Block& b) {
  const int group = p.q_heads / p.kv_heads;
  const T* first = static_cast<const T*>(p.q.data) +
                   start_of(p.q, p.q_edges, b.sequence, b.first_q) +
                   b.first_token * p.q.token_stride;
  copy_rows<kRows, kDim, T>(to, row_bytes, dim, p.q.data, [&](int row) {
    return row < b.tokens * group ? first + row / group * p.q.token_stride +
                                        (b.kv_head * group + row % group) * p.q.head_stride
                                  : nullptr;
  });
}

// A tile of keys or values, from `cache` [sequences][kv_heads][capacity][dim] or from `fresh`.
template <int kDim, class T>
__device__ void copy_tile(uint32_t to, int row_bytes, int dim, const AttentionSm80Problem& p,
                          const Block& b, const KeyTile& tile, const SequenceTensor& fresh,
                          const void* cache) {
  if (tile.committed) {
    const int64_t head = int64_t{b.sequence} * p.kv_heads + b.kv_head;
    const int first = tile.position + b.length;
    const T* stored = static_cast<const T*>(cache) + (head * p.capacity + first % p.capacity) * dim;
    copy_rows<kSm80KeyTile, kDim, T>(to, row_bytes, dim, fresh.data, [&](int row) {
      const int position = first + row;
      const bool exists = position >= b.first_committed && position < b.length;
      return exists ? stored + int64_t{row} * dim : nullptr;
    });
  } else {
    const T* first = static_cast<const T*>(fresh.data) +
                     start_of(fresh, p.k_edges, b.sequence, b.first_k) +
                     b.kv_head * fresh.head_stride + tile.position * fresh.token_stride;
    copy_rows<kSm80KeyTile, kDim, T>(to, row_bytes, dim, fresh.data, [&](int row) {
      return tile.position + row < b.keys ? first + row * fresh.token_stride : nullptr;
    });
  }
}

}  // namespace mn
