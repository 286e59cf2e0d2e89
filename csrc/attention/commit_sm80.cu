// Accepted keys and values to their places in a layer's cache.
#include "attention/kernels_cuda.h"

namespace mn {
namespace {

constexpr int kThreads = 128, kChunk = 16;  // bytes

// A block per accepted token.
__global__ void __launch_bounds__(kThreads) commit_kernel(const CommitSm80Problem p) {
  const int64_t* entry = p.table + int64_t{blockIdx.x} * kCommitColumns;
  const int64_t token = entry[0], row = entry[1], position = entry[2], end = entry[3];
  // A ring takes only those that it will still hold: the others would fall on the same places.
  if (position < end - p.capacity) return;
  const int64_t place =
      static_cast<uint32_t>(position) % static_cast<uint32_t>(p.capacity);  // far below 2^32
  const int key_chunks = static_cast<int>(p.keys.row_bytes) / kChunk;
  const int chunks = key_chunks + static_cast<int>(p.values.row_bytes) / kChunk;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < p.kv_heads * chunks; i += kThreads) {
    const int head = i / chunks, chunk = i % chunks;
    const CommitTensor& t = chunk < key_chunks ? p.keys : p.values;
    const int at = (chunk < key_chunks ? chunk : chunk - key_chunks) * kChunk;
    const auto* from = static_cast<const unsigned char*>(t.fresh) + token * t.token_stride +
                       head * t.head_stride + at;
    auto* to = static_cast<unsigned char*>(t.stored) +
               ((row * p.kv_heads + head) * p.capacity + place) * t.row_bytes + at;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
  }
}

}  // namespace

void cache_commit_sm80(const CommitSm80Problem& p, cudaStream_t stream) {
  if (p.accepted > 0) commit_kernel<<<static_cast<unsigned>(p.accepted), kThreads, 0, stream>>>(p);
}

}  // namespace mn
