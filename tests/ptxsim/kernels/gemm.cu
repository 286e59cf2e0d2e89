// C[M, N] = A[M, K] B[N, K]^T in bfloat16: cp.async ring, ldmatrix, mma.sync. kBug: one mistake each.
#include <cuda_bf16.h>
#include <cstdint>

constexpr int kTile = 128, kDepth = 32, kStages = 3, kThreads = 256;

enum Bug {
  kNone,
  kWaitTooFew,    // waits for one group less
  kNoBarrier,     // reads what other threads have copied without meeting them
  kNoZeroFill,    // reads rows past the end
  kNoDrain,       // exits while copies are under way
  kNoSwizzle,     // right, with bank conflicts
  kTransposed,    // .trans where it does not belong
  kEarlyReuse,    // the ring is one stage too short
};

template <int kBug>
__device__ uint32_t place(int row, int chunk) {  // of 16 bytes; a row has four
  const int column = kBug == kNoSwizzle ? chunk : chunk ^ (row >> 1 & 3);
  return static_cast<uint32_t>(row * 64 + column * 16);
}

template <int kBug>
__global__ void __launch_bounds__(kThreads)
    gemm(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int M, int N, int K) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kStageBytes = 2 * kTile * 64;
  constexpr int kRing = kBug == kEarlyReuse ? kStages - 1 : kStages;
  const auto base = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int row0 = blockIdx.x * kTile, col0 = blockIdx.y * kTile, steps = K / kDepth;

  const auto copy = [&](int step) {
    const uint32_t stage = base + step % kRing * kStageBytes;
    for (int i = thread; i < 2 * kTile * 4; i += kThreads) {
      const int row = i / 4 % kTile, chunk = i % 4;
      const bool is_a = i < kTile * 4;
      const int at = (is_a ? row0 : col0) + row;
      const bool inside = kBug == kNoZeroFill || at < (is_a ? M : N);
      const auto* from = (is_a ? a : b) + (inside ? int64_t{at} * K + step * kDepth + chunk * 8 : 0);
      const uint32_t to = stage + (is_a ? 0 : kTile * 64) + place<kBug>(row, chunk);
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                   "r"(inside ? 16 : 0) : "memory");
    }
  };
  const auto commit = [] { asm volatile("cp.async.commit_group;" ::: "memory"); };

  float sum[4][4][4] = {};  // 64 x 32 for each warp
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) copy(step);
    commit();
  }
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kBug == kWaitTooFew ? kStages - 1 : kStages - 2) : "memory");
    if (kBug != kNoBarrier) __syncthreads();
    if (kBug == kNoDrain || step + kStages - 1 < steps) copy(kBug == kNoDrain ? 0 : step + kStages - 1);
    commit();
    const uint32_t stage = base + (kBug == kNoDrain ? 0 : step % kRing) * kStageBytes;
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t ra[4][4], rb[4][2];
      for (int i = 0; i < 4; ++i) {
        const int row = warp % 2 * 64 + i * 16 + lane % 16;
        const uint32_t from = stage + place<kBug>(row, 2 * k + lane / 16);
        if (kBug == kTransposed)
          asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                       : "=r"(ra[i][0]), "=r"(ra[i][1]), "=r"(ra[i][2]), "=r"(ra[i][3]) : "r"(from));
        else
          asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                       : "=r"(ra[i][0]), "=r"(ra[i][1]), "=r"(ra[i][2]), "=r"(ra[i][3]) : "r"(from));
      }
      for (int j = 0; j < 4; j += 2) {
        const int row = warp / 2 * 32 + j * 8 + lane % 8 + lane / 16 * 8;
        const uint32_t from = stage + kTile * 64 + place<kBug>(row, 2 * k + lane / 8 % 2);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(rb[j][0]), "=r"(rb[j][1]), "=r"(rb[j + 1][0]), "=r"(rb[j + 1][1]) : "r"(from));
      }
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j)
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
              "{%8, %9}, {%0, %1, %2, %3};"
              : "+f"(sum[i][j][0]), "+f"(sum[i][j][1]), "+f"(sum[i][j][2]), "+f"(sum[i][j][3])
              : "r"(ra[i][0]), "r"(ra[i][1]), "r"(ra[i][2]), "r"(ra[i][3]), "r"(rb[j][0]), "r"(rb[j][1]));
    }
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j)
      for (int h = 0; h < 2; ++h) {
        const int row = row0 + warp % 2 * 64 + i * 16 + h * 8 + lane / 4;
        const int col = col0 + warp / 2 * 32 + j * 8 + lane % 4 * 2;
        if (row < M && col < N)
          *reinterpret_cast<float2*>(c + int64_t{row} * N + col) =
              make_float2(sum[i][j][2 * h], sum[i][j][2 * h + 1]);
      }
}

#define INSTANCE(bug) \
  template __global__ void gemm<bug>(const __nv_bfloat16*, const __nv_bfloat16*, float*, int, int, int);
INSTANCE(kNone)
INSTANCE(kWaitTooFew)
INSTANCE(kNoBarrier)
INSTANCE(kNoZeroFill)
INSTANCE(kNoDrain)
INSTANCE(kNoSwizzle)
INSTANCE(kTransposed)
INSTANCE(kEarlyReuse)

// Matrices through stmatrix and back, both ways of turning them; half of a warp must not do it alone.
template <bool kBug>
__global__ void turn(uint32_t* x) {
  __shared__ __align__(16) unsigned char tile[4 * 128];
  const int lane = threadIdx.x;
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(tile)) + lane * 16;
  uint32_t r[4];
  for (int i = 0; i < 4; ++i) r[i] = x[i * 32 + lane];
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
  __syncwarp();
  if (kBug && lane >= 16) return;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(to) : "memory");
  for (int i = 0; i < 4; ++i) x[i * 32 + lane] = r[i];
}
template __global__ void turn<false>(uint32_t*);
template __global__ void turn<true>(uint32_t*);
