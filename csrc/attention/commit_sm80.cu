// Accepted keys and values to their places in a layer's cache.
#include "attention/kernels_cuda.h"

namespace mn {
namespace {

constexpr int kThreads = 128, kChunk = 16;  // bytes

// A block per accepted token, in x, and layer, in y.
__global__ void __launch_bounds__(kThreads)
    commit_kernel(const __grid_constant__ CommitSm80Problem p) {
  const CommitSm80Layer& layer = p.layer[blockIdx.y];
  const int64_t* entry = p.table + int64_t{blockIdx.x} * kCommitColumns;
  const int64_t token = entry[0], row = entry[1], position = entry[2], end = entry[3];
  // A ring takes only those that it will still hold: the others would fall on the same places.
  if (position < end - layer.capacity) return;
  const int64_t place =
      static_cast<uint32_t>(position) % static_cast<uint32_t>(layer.capacity);  // far below 2^32
  const int kv_heads = static_cast<int>(layer.kv_heads);
  const int key_chunks = static_cast<int>(layer.keys.row_bytes) / kChunk;
  const int chunks = key_chunks + static_cast<int>(layer.values.row_bytes) / kChunk;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kv_heads * chunks; i += kThreads) {
    const int head = i / chunks, chunk = i % chunks;
    const CommitTensor& t = chunk < key_chunks ? layer.keys : layer.values;
    const int at = (chunk < key_chunks ? chunk : chunk - key_chunks) * kChunk;
    const auto* from = static_cast<const unsigned char*>(t.fresh) + token * t.token_stride +
                       head * t.head_stride + at;
    auto* to = static_cast<unsigned char*>(t.stored) +
               ((row * kv_heads + head) * layer.capacity + place) * t.row_bytes + at;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
  }
}

}  // namespace

void cache_commit_sm80(const CommitSm80Problem& p, cudaStream_t stream) {
  if (p.accepted == 0) return;
  const dim3 grid(static_cast<unsigned>(p.accepted), static_cast<unsigned>(p.layers));
  commit_kernel<<<grid, kThreads, 0, stream>>>(p);
}

}  // namespace mn
