// The sum over a token's slots, and SwiGLU by itself: a thread for a few columns of a row.
#include <cuda_bf16.h>

#include "experts/kernels_cuda.h"
#include "runtime/cuda/vector_sm80.cuh"

namespace mn {
namespace {

constexpr int kThreads = 128;

template <class Y, int N>
__global__ void __launch_bounds__(kThreads) combine(const CombineSm80Problem p) {
  const int64_t token = blockIdx.x;
  const int64_t column = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * N;
  if (column >= p.width) return;
  float sum[N] = {};
  for (int64_t k = 0; k < p.slots; ++k) {
    const int64_t pair = token * p.slots + k;
    const int row = p.position[pair];
    const float weight = row < 0 ? __int_as_float(0x7fffffff) : p.weights[pair];
    const auto from = load_vector<float, N>(p.products + int64_t{max(row, 0)} * p.width + column);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = fmaf(weight, from.value[i], sum[i]);
  }
  store_vector(static_cast<Y*>(p.y) + token * p.width + column, sum);
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads) swiglu(const SwigluProblem p) {
  const int64_t row = blockIdx.x;
  const int64_t column = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * N;
  if (column >= p.ffn) return;
  const T* from = static_cast<const T*>(p.gate_up) + row * p.x_stride + column;
  const auto gate = load_vector<T, N>(from), up = load_vector<T, N>(from + p.ffn);
  float h[N];
#pragma unroll
  for (int i = 0; i < N; ++i) h[i] = silu(widen(gate.value[i])) * widen(up.value[i]);
  store_vector(static_cast<T*>(p.y) + row * p.ffn + column, h);
}

dim3 grid_of(int64_t rows, int64_t columns, int at_once) {
  const int64_t per_block = int64_t{kThreads} * at_once;
  return {static_cast<unsigned>(rows),
          static_cast<unsigned>((columns + per_block - 1) / per_block)};
}

template <class T>
void launch_swiglu(const SwigluProblem& p, cudaStream_t stream) {
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = p.ffn % kWide == 0 && p.x_stride % kWide == 0 && is_aligned(p.gate_up);
  if (wide)
    swiglu<T, kWide><<<grid_of(p.rows, p.ffn, kWide), kThreads, 0, stream>>>(p);
  else
    swiglu<T, 1><<<grid_of(p.rows, p.ffn, 1), kThreads, 0, stream>>>(p);
}

template <class Y>
void launch_combine(const CombineSm80Problem& p, cudaStream_t stream) {
  if (p.width % 4 == 0)
    combine<Y, 4><<<grid_of(p.tokens, p.width, 4), kThreads, 0, stream>>>(p);
  else
    combine<Y, 1><<<grid_of(p.tokens, p.width, 1), kThreads, 0, stream>>>(p);
}

}  // namespace

void combine_slots_sm80(const CombineSm80Problem& p, cudaStream_t stream) {
  if (p.y_bf16) return launch_combine<__nv_bfloat16>(p, stream);
  launch_combine<float>(p, stream);
}

void swiglu_f32_sm80(const SwigluProblem& p, cudaStream_t stream) {
  launch_swiglu<float>(p, stream);
}
void swiglu_bf16_sm80(const SwigluProblem& p, cudaStream_t stream) {
  launch_swiglu<__nv_bfloat16>(p, stream);
}

}  // namespace mn
