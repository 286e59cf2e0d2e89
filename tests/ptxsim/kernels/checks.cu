// Small kernels, each right and with one mistake: the checkers must see every mistake and nothing else.
#include <cuda_bf16.h>
#include <cstdint>

// A reversal through shared memory: without the barrier the reads race with the writes.
template <bool kBug>
__global__ void reverse(int* x) {
  __shared__ int tile[256];
  tile[threadIdx.x] = x[threadIdx.x];
  if (!kBug) __syncthreads();
  x[threadIdx.x] = tile[255 - threadIdx.x];
}

// Two rounds over the same tile: without the second barrier the writes of round 2 race with the reads
// of round 1.
template <bool kBug>
__global__ void rounds(int* x) {
  __shared__ int tile[128];
  int value = x[threadIdx.x];
  for (int i = 0; i < 2; ++i) {
    tile[threadIdx.x] = value;
    __syncthreads();
    value = tile[(threadIdx.x + 32) % 128];
    if (!kBug) __syncthreads();
  }
  x[threadIdx.x] = value;
}

// Within one warp a warp barrier is enough, and needed.
template <bool kBug>
__global__ void within_warp(int* x) {
  __shared__ int tile[32];
  tile[threadIdx.x] = x[threadIdx.x];
  if (!kBug) __syncwarp();
  x[threadIdx.x] = tile[31 - threadIdx.x];
}

// Neighbouring threads own neighbouring bytes: no race, whatever the width.
template <bool kBug>
__global__ void bytes(uint8_t* x) {
  __shared__ uint8_t tile[128];
  tile[threadIdx.x] = x[threadIdx.x];
  tile[threadIdx.x] += tile[kBug ? threadIdx.x ^ 64 : threadIdx.x];
  x[threadIdx.x] = tile[threadIdx.x];
}

// Named barriers: warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2.
template <bool kBug>
__global__ void named(int* x) {
  __shared__ int tile[128];
  tile[threadIdx.x] = x[threadIdx.x];
  const int half = threadIdx.x / 64;
  asm volatile("bar.sync %0, 64;" ::"r"(1 + half) : "memory");
  const int other = kBug ? threadIdx.x ^ 64 : threadIdx.x ^ 32;
  x[threadIdx.x] = tile[other];
}

// Lanes may write the same value to one place in one instruction, not different ones.
template <bool kBug>
__global__ void same_place(int* x) {
  __shared__ int tile[4];
  tile[threadIdx.x / 32] = kBug ? threadIdx.x : threadIdx.x / 32;
  __syncthreads();
  x[threadIdx.x] = tile[threadIdx.x % 4];
}

template <bool kBug>
__global__ void shared_overflow(int* x) {
  __shared__ int tile[100];
  __shared__ int guard[100];
  guard[threadIdx.x] = 0;
  tile[kBug ? threadIdx.x + 1 : threadIdx.x] = threadIdx.x;
  __syncthreads();
  x[threadIdx.x] = tile[(threadIdx.x + 1) % 100] + guard[threadIdx.x ^ 1];
}

template <bool kBug>
__global__ void global_overflow(int* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (kBug ? i <= n : i < n) x[i] = i;
}

template <bool kBug>
__global__ void misaligned(int* x) {
  int a, b;
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "l"(x + (kBug ? 1 : 2)));
  x[8] = a + b;
}

template <bool kBug>
__global__ void uninitialised(int* x) {
  __shared__ int tile[64];
  if (!kBug || threadIdx.x != 7) tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// A lane that leaves early must not be asked for its register.
template <bool kBug>
__global__ void early_exit(int* x) {
  if (kBug && threadIdx.x == 5) return;
  x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1);
}

// Half of the warp waits for the other half, which never comes.
template <bool kBug>
__global__ void half_sync(int* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_sync(kBug ? ~0u : 0xffffu, x[threadIdx.x], 0);
  else if (kBug) asm volatile("bar.sync 3, 64;");
}

// Two barriers in two branches; with the mistake the lanes of one warp part between them. Threads
// that have left before a barrier are no mistake.
template <bool kBug>
__global__ void two_barriers(int* x) {
  __shared__ int sum;
  if (threadIdx.x >= 56) return;
  if (threadIdx.x == 0) sum = x[0];
  if (threadIdx.x < (kBug ? 40 : 32)) {
    __syncthreads();
    x[threadIdx.x] = sum;
  } else {
    x[threadIdx.x] = 1;
    asm volatile("bar.sync 0;");
    x[threadIdx.x] += sum;
  }
}

// Blocks: each writes its own element; with the mistake all write the first.
template <bool kBug>
__global__ void blocks(int* x) {
  if (threadIdx.x == 0) x[kBug ? 0 : blockIdx.x] = blockIdx.x;
}

// The last block sums what all blocks wrote; the fence makes the writes visible.
template <bool kBug>
__global__ void last_block(int* parts, int* counter, int* total) {
  __shared__ bool last;
  if (threadIdx.x < 32) parts[blockIdx.x * 32 + threadIdx.x] = blockIdx.x;
  if (!kBug) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(counter, 1) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  int sum = 0;
  for (int i = threadIdx.x; i < gridDim.x * 32; i += blockDim.x) sum += parts[i];
  atomicAdd(total, sum);
}

// The thread that publishes has not waited for the others of its block.
template <bool kBug>
__global__ void flag(volatile int* ready, int* data, int* out) {
  if (blockIdx.x == 0) {
    data[threadIdx.x] = threadIdx.x;
    __threadfence();
    if (!kBug) __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      *ready = 1;
    }
  } else {
    while (*ready == 0) {
    }
    __threadfence();
    out[threadIdx.x] = data[threadIdx.x];
  }
}

template <bool kBug>
__global__ void read_only(const int* x, int* y) {
  if (kBug) y[threadIdx.x] += 1;  // y was never written
  else y[threadIdx.x] = x[threadIdx.x];
}

#define BOTH(kernel, ...)                                  \
  template __global__ void kernel<false>(__VA_ARGS__);     \
  template __global__ void kernel<true>(__VA_ARGS__);
BOTH(reverse, int*)
BOTH(rounds, int*)
BOTH(within_warp, int*)
BOTH(bytes, uint8_t*)
BOTH(named, int*)
BOTH(same_place, int*)
BOTH(shared_overflow, int*)
BOTH(global_overflow, int*, int)
BOTH(misaligned, int*)
BOTH(uninitialised, int*)
BOTH(early_exit, int*)
BOTH(half_sync, int*)
BOTH(two_barriers, int*)
BOTH(blocks, int*)
BOTH(last_block, int*, int*, int*)
BOTH(flag, volatile int*, int*, int*)
BOTH(read_only, const int*, int*)
