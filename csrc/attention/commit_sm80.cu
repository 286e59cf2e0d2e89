// Accepted keys and values to their places in a layer's cache: a thread per 16 bytes.
#include "attention/kernels_cuda.h"

namespace mn {
namespace {

constexpr int kThreads = 256, kChunk = 16;  // bytes

__device__ const uint4* source(const CommitTensor& t, int64_t token, int head) {
  return reinterpret_cast<const uint4*>(static_cast<const unsigned char*>(t.fresh) +
                                        token * t.token_stride + head * t.head_stride);
}

__global__ void __launch_bounds__(kThreads) commit_kernel(const CommitSm80Problem p) {
  const int key_chunks = static_cast<int>(p.keys.row_bytes / kChunk);
  const int chunks = key_chunks + static_cast<int>(p.values.row_bytes / kChunk);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= p.accepted * p.kv_heads * chunks) return;
  const int64_t* entry = p.table + i / (int64_t{p.kv_heads} * chunks) * kCommitColumns;
  const int head = static_cast<int>(i / chunks % p.kv_heads);
  const int64_t token = entry[0], row = entry[1], position = entry[2], end = entry[3];
  // A ring takes only those that it will still hold: the others would fall on the same places.
  if (position < end - p.capacity) return;
  const int chunk = static_cast<int>(i % chunks);
  const CommitTensor& t = chunk < key_chunks ? p.keys : p.values;
  const int at = chunk < key_chunks ? chunk : chunk - key_chunks;
  const int64_t place = (row * p.kv_heads + head) * p.capacity + position % p.capacity;
  auto* to = reinterpret_cast<uint4*>(static_cast<unsigned char*>(t.stored) + place * t.row_bytes);
  to[at] = source(t, token, head)[at];
}

}  // namespace

void cache_commit_sm80(const CommitSm80Problem& p, cudaStream_t stream) {
  const int64_t threads =
      p.accepted * p.kv_heads * (p.keys.row_bytes / kChunk + p.values.row_bytes / kChunk);
  if (threads == 0) return;
  commit_kernel<<<static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, 0,
                  stream>>>(p);
}

}  // namespace mn
