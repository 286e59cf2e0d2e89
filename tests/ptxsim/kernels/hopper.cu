// C[M, N] = A[M, K] B[N, K]^T in bfloat16 on sm_90a: a producer warpgroup copies tiles by tensor maps
// into a ring of mbarriers, a consumer warpgroup multiplies them by wgmma and stores the result by a
// tensor map. kBug: one mistake each.
#include <cuda.h>
#include <cuda_bf16.h>
#include <cstdint>

constexpr int kTile = 64, kStages = 3, kTileBytes = kTile * 128;

enum Bug {
  kNone,
  kNoEmptyWait,   // the producer does not wait until a stage is free
  kWrongPhase,    // the consumer waits for the phase before
  kWrongStep,     // the descriptor of A is moved too far along K
  kEarlyRelease,  // a stage is given back while wgmma reads it
  kNoWait,        // the accumulators are read before wgmma is done
  kNoProxyFence,  // the result is stored by the copy engine without a fence of proxies
  kNoStoreWait,   // the block exits while its store is under way
  kNoInitFence,   // the barriers are used before all threads know of them
  kTooManyArrivals,  // by one instruction, more than the phase has left
  kShortExpect,   // fewer bytes are expected than copied
  kNoMatrixFence, // wgmma uses registers that were set before, with no fence
  kScaledLate,    // the accumulators are scaled between two products, with no fence after that
};

__device__ void barrier_init(uint32_t at, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
__device__ void barrier_expect(uint32_t at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
__device__ void barrier_arrive(uint32_t at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
__device__ void barrier_wait(uint32_t at, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}" ::"r"(at),
      "r"(parity) : "memory");
}
__device__ void load_tile(uint32_t to, const CUtensorMap* map, uint32_t barrier, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y) : "memory");
}
__device__ uint64_t descriptor(uint32_t at) {  // k is contiguous, 128-byte swizzle
  return (at & 0x3ffff) >> 4 | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62;
}
__device__ void multiply(float (&d)[32], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,"
      "%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b));
}

template <int kBug>
__global__ void __launch_bounds__(256)
    hopper(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
           const __grid_constant__ CUtensorMap map_c, int K) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const auto base = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t out = base + kStages * 2 * kTileBytes, barriers = out + kTile * kTile * 4;
  const auto full = [&](int s) { return barriers + s * 8; };
  const auto empty = [&](int s) { return barriers + kStages * 8 + s * 8; };
  const int thread = threadIdx.x, group = thread / 128, steps = K / 64;
  const int row0 = blockIdx.x * kTile, col0 = blockIdx.y * kTile;
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full(s), 1);
      barrier_init(empty(s), 128);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (kBug != kNoInitFence) __syncthreads();
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread == 0)
      for (int t = 0; t < steps; ++t) {
        const int s = t % kStages, round = t / kStages;
        if (kBug != kNoEmptyWait) barrier_wait(empty(s), (round & 1) ^ 1);  // passes at once at first
        barrier_expect(full(s), kBug == kShortExpect ? kTileBytes : 2 * kTileBytes);
        load_tile(base + s * 2 * kTileBytes, &map_a, full(s), t * 64, row0);
        load_tile(base + s * 2 * kTileBytes + kTileBytes, &map_b, full(s), t * 64, col0);
      }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  float d[32] = {};
  for (int t = 0; t < steps; ++t) {
    const int s = t % kStages, round = t / kStages;
    barrier_wait(full(s), kBug == kWrongPhase ? (round & 1) ^ 1 : round & 1);
    const uint64_t a = descriptor(base + s * 2 * kTileBytes);
    const uint64_t b = descriptor(base + s * 2 * kTileBytes + kTileBytes);
    if (kBug != kNoMatrixFence && (kBug != kScaledLate || t == 0))
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < 4; ++k) multiply(d, a + k * (kBug == kWrongStep ? 4 : 2), b + k * 2);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if (kBug == kEarlyRelease || kBug == kNoWait)
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    else
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    if (kBug == kScaledLate)
      for (int i = 0; i < 32; ++i) asm volatile("mul.f32 %0, %0, 0f3F800000;" : "+f"(d[i])::"memory");
    if (kBug == kTooManyArrivals && thread == 128)
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 129;" ::"r"(empty(s)) : "memory");
    if (kBug != kNoWait || t > 0) barrier_arrive(empty(kBug == kNoWait ? (t - 1) % kStages : s));
  }
  if (kBug == kEarlyRelease) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(d[i])::"memory");
  const int lane = thread % 32, warp = thread / 32 % 4;
  auto* tile = reinterpret_cast<float*>(shared + kStages * 2 * kTileBytes);
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = warp * 16 + h * 8 + lane / 4, col = j * 8 + lane % 4 * 2;
      tile[row * kTile + col] = d[4 * j + 2 * h];
      tile[row * kTile + col + 1] = d[4 * j + 2 * h + 1];
    }
  if (kBug != kNoProxyFence) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  asm volatile("bar.sync 1, 128;" ::: "memory");
  if (thread == 128) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map_c),
                 "r"(out), "r"(col0), "r"(row0) : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    if (kBug != kNoStoreWait) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}

// A GEMM by way of the host: makes the tensor maps and launches. Returns the launch's error.
#include <cuda_runtime.h>

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

CUtensorMap map_of(Encode encode, void* data, int columns, int rows, int bytes) {
  CUtensorMap map;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride[] = {static_cast<cuuint64_t>(columns) * bytes};
  const cuuint32_t box[] = {64, 64}, step[] = {1, 1};
  encode(&map, bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, data, size,
         stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
         bytes == 2 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return map;
}

template <int kBug>
void launch(Encode encode, void* a, void* b, void* c, int M, int N, int K) {
  constexpr int kBytes = kStages * 2 * kTileBytes + kTile * kTile * 4 + 2 * kStages * 8;
  cudaFuncSetAttribute(hopper<kBug>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  hopper<kBug><<<dim3((M + 63) / 64, (N + 63) / 64), 256, kBytes>>>(
      map_of(encode, a, K, M, 2), map_of(encode, b, K, N, 2), map_of(encode, c, N, M, 4), K);
}

}  // namespace

extern "C" int run(int bug, void* a, void* b, void* c, int M, int N, int K) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (found != cudaDriverEntryPointSuccess) return -1;
  decltype(&launch<0>) const all[] = {launch<0>, launch<1>, launch<2>, launch<3>, launch<4>, launch<5>,
                                      launch<6>, launch<7>, launch<8>, launch<9>, launch<10>, launch<11>,
                                      launch<12>};
  all[bug](reinterpret_cast<Encode>(function), a, b, c, M, N, K);
  return cudaGetLastError();
}
