// Sorts (token, slot) pairs by expert: a stable counting sort, a thread for each pair.
//
// A pair's place is the first row of its expert, plus the expert's pairs of earlier blocks, plus
// those of earlier warps of its block, plus those of lower lanes. Each of the four is counted, none
// is drawn from an atomic counter, so the order is that of the pairs.
#include "experts/kernels_cuda.h"
#include "gemm/row_tiles_sm80.cuh"
#include "runtime/cuda/device.h"

namespace mn {
namespace {

constexpr int kWarps = kSortThreads / 32;
static_assert(kSortThreads == kRowTileThreads);

// Where a thread's pair stands in its block, and how many pairs the block has of the expert of the
// thread's number. `before` [kWarps][experts] is shared memory: the expert's pairs of the warps
// before, as soon as the block has met again.
struct Counted {
  int id;     // of the pair; -1: no pair, or no expert
  int lower;  // lanes with the same id
  int total;
};

__device__ Counted count(const SortSm80Problem& p, uint16_t* before) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int pair = static_cast<int>(blockIdx.x) * kSortThreads + thread;
  for (int i = thread; i < kWarps * p.experts; i += kSortThreads) before[i] = 0;
  int id = pair < p.pairs ? p.ids[pair] : -1;
  if (id < 0 || id >= p.experts) id = -1;
  const uint32_t same = __match_any_sync(~0u, id);
  const int lower = __popc(same & ((1u << lane) - 1));
  __syncthreads();
  if (id >= 0 && lower == 0) before[warp * p.experts + id] = static_cast<uint16_t>(__popc(same));
  __syncthreads();
  int total = 0;
  if (thread < p.experts)
    for (int w = 0; w < kWarps; ++w) {
      uint16_t& here = before[w * p.experts + thread];
      const int count = here;
      here = static_cast<uint16_t>(total);
      total += count;
    }
  return {id, lower, total};
}

__device__ void place(const SortSm80Problem& p, const Counted& c, const uint16_t* before,
                      const int* first_row) {
  const int pair = static_cast<int>(blockIdx.x * kSortThreads + threadIdx.x);
  if (pair >= p.pairs) return;
  int row = -1;
  if (c.id >= 0) {
    row = first_row[c.id] + before[threadIdx.x / 32 * p.experts + c.id] + c.lower;
    p.token[row] = pair / p.slots;
  }
  p.position[pair] = row;
}

extern __shared__ uint16_t counters[];

__global__ void __launch_bounds__(kSortThreads) sort_one_chunk(const SortSm80Problem p) {
  __shared__ int first_row[kSortThreads], rows_of_warp[kWarps];
  const Counted c = count(p, counters);
  int rows;
  const int first = sum_before(c.total, rows, rows_of_warp);
  first_row[threadIdx.x] = first;
  write_row_tiles(first, first + c.total, p.tile_rows, p.row_tiles, p.tiles);  // the block meets
  place(p, c, counters, first_row);
}

__global__ void __launch_bounds__(kSortThreads) count_chunks(const SortSm80Problem p) {
  const Counted c = count(p, counters);
  const int expert = static_cast<int>(threadIdx.x);
  if (expert < p.experts) p.bins[int64_t{blockIdx.x} * p.experts + expert] = c.total;
}

// Turns the counts of the chunks into first rows.
__global__ void __launch_bounds__(kSortThreads) add_chunks(const SortSm80Problem p, int chunks) {
  __shared__ int rows_of_warp[kWarps];
  const int expert = static_cast<int>(threadIdx.x);
  int* bin = p.bins + expert;
  int total = 0, rows;
  if (expert < p.experts)
    for (int c = 0; c < chunks; ++c) total += bin[int64_t{c} * p.experts];
  const int first = sum_before(total, rows, rows_of_warp);
  int next = first;
  if (expert < p.experts)
    for (int c = 0; c < chunks; ++c) {
      int& count = bin[int64_t{c} * p.experts];
      const int here = next;
      next += count;
      count = here;
    }
  write_row_tiles(first, first + total, p.tile_rows, p.row_tiles, p.tiles);
}

__global__ void __launch_bounds__(kSortThreads) place_chunks(const SortSm80Problem p) {
  const Counted c = count(p, counters);
  __syncthreads();
  place(p, c, counters, p.bins + int64_t{blockIdx.x} * p.experts);
}

}  // namespace

void sort_pairs_sm80(const SortSm80Problem& p, cudaStream_t stream) {
  const int chunks = static_cast<int>(sort_chunks(p.pairs));
  const int shared = kWarps * p.experts * static_cast<int>(sizeof(uint16_t));
  if (chunks == 1) {
    allow_shared_memory(sort_one_chunk, shared);
    sort_one_chunk<<<1, kSortThreads, shared, stream>>>(p);
    return;
  }
  allow_shared_memory(count_chunks, shared);
  allow_shared_memory(place_chunks, shared);
  count_chunks<<<chunks, kSortThreads, shared, stream>>>(p);
  add_chunks<<<1, kSortThreads, 0, stream>>>(p, chunks);
  place_chunks<<<chunks, kSortThreads, shared, stream>>>(p);
}

}  // namespace mn
