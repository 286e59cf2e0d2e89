// RMSNorm: a group of 32 .. 256 threads per row, the row read twice (the second time from L1).
#include <cuda_bf16.h>

#include "norm_rope/kernels_cuda.h"
#include "runtime/cuda/pack.cuh"

namespace mn {
namespace {

// The sum over the threads of a row; every thread gets it. Warps of one row lie side by side.
__device__ float row_sum(float x, int threads_per_row) {
  __shared__ float partial[kRmsNormThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  if (threads_per_row == 32) return x;
  const int warp = threadIdx.x / 32, warps_per_row = threads_per_row / 32;
  if (threadIdx.x % 32 == 0) partial[warp] = x;
  __syncthreads();
  const int first = warp / warps_per_row * warps_per_row;
  x = 0;
  for (int i = 0; i < warps_per_row; ++i) x += partial[first + i];
  return x;
}

// N elements per load.
template <class T, class W, int N>
__global__ void __launch_bounds__(kRmsNormThreads)
    rms_norm_kernel(const RmsNormProblem p, int threads_per_row) {
  using PackT = Pack<T, N>;
  using PackW = Pack<W, N>;
  const int lane = threadIdx.x % threads_per_row;
  const int64_t row =
      int64_t{blockIdx.x} * (blockDim.x / threads_per_row) + threadIdx.x / threads_per_row;
  // A row past the end still takes part in the block's barrier.
  const int64_t loads = row < p.rows ? p.dim / N : 0;
  const auto* x = reinterpret_cast<const PackT*>(static_cast<const T*>(p.x) + row * p.x_stride);
  const auto* weight = static_cast<const PackW*>(p.weight);
  auto* y = reinterpret_cast<PackT*>(static_cast<T*>(p.y) + row * p.dim);

  float sum = 0;
  for (int64_t i = lane; i < loads; i += threads_per_row) {
    const PackT a = x[i];
#pragma unroll
    for (int j = 0; j < N; ++j) sum = fmaf(widen(a.value[j]), widen(a.value[j]), sum);
  }
  const float mean = row_sum(sum, threads_per_row) / static_cast<float>(p.dim);
  const float scale = 1.f / sqrtf(mean + p.eps);
  for (int64_t i = lane; i < loads; i += threads_per_row) {
    const PackT a = x[i];
    const PackW w = weight[i];
    PackT out;
#pragma unroll
    for (int j = 0; j < N; ++j) narrow(widen(a.value[j]) * scale * widen(w.value[j]), out.value[j]);
    y[i] = out;
  }
}

template <class T, class W>
void launch(const RmsNormProblem& p, cudaStream_t stream) {
  if (p.rows == 0 || p.dim == 0) return;
  const RmsNormPlan plan = plan_rms_norm(p, sizeof(T), sizeof(W));
  auto* kernel = plan.wide ? rms_norm_kernel<T, W, 16 / sizeof(T)> : rms_norm_kernel<T, W, 1>;
  kernel<<<plan.blocks, kRmsNormThreads, 0, stream>>>(p, plan.threads_per_row);
}

}  // namespace

void rms_norm_f32_sm80(const RmsNormProblem& p, cudaStream_t stream) {
  launch<float, float>(p, stream);
}
void rms_norm_bf16_sm80(const RmsNormProblem& p, cudaStream_t stream) {
  launch<__nv_bfloat16, __nv_bfloat16>(p, stream);
}
void rms_norm_bf16_weight_f32_sm80(const RmsNormProblem& p, cudaStream_t stream) {
  launch<__nv_bfloat16, float>(p, stream);
}

}  // namespace mn
