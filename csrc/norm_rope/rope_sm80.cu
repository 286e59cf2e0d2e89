// Rotary embedding and value scale: a thread turns one load of each half of a head, or copies or
// scales one load of the rest.
#include <cuda_bf16.h>

#include "norm_rope/kernels_cuda.h"
#include "runtime/cuda/pack.cuh"

namespace mn {
namespace {

template <class T, int N>
__device__ const T* load_at(const RopeTensor& t, int64_t token, int64_t head) {
  return static_cast<const T*>(t.in) + token * t.token_stride + head * t.head_stride;
}

template <class T, int N>
__device__ T* store_at(const RopeTensor& t, int64_t token, int64_t head) {
  return static_cast<T*>(t.out) + (token * t.heads + head) * t.dim;
}

// `item` counts the loads of one head: first the pairs of the rotated part, then what is copied.
template <class T, int N>
__device__ void rotate(const RopeProblem& p, const RopeTensor& t, int64_t token, int head,
                       int item) {
  using PackT = Pack<T, N>;
  const T* x = load_at<T, N>(t, token, head);
  T* y = store_at<T, N>(t, token, head);
  const int half = static_cast<int>(p.rotary_dim / 2), turned = half / N;
  if (item >= turned) {
    const int at = 2 * half + (item - turned) * N;
    *reinterpret_cast<PackT*>(y + at) = *reinterpret_cast<const PackT*>(x + at);
    return;
  }
  const int at = item * N;
  const float* table = p.table + token * p.rotary_dim + at;
  const auto cosines = *reinterpret_cast<const Pack<float, N>*>(table);
  const auto sines = *reinterpret_cast<const Pack<float, N>*>(table + half);
  const PackT a = *reinterpret_cast<const PackT*>(x + at);
  const PackT b = *reinterpret_cast<const PackT*>(x + half + at);
  PackT first, second;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float c = cosines.value[j], s = sines.value[j];
    const float u = widen(a.value[j]), w = widen(b.value[j]);
    narrow(fmaf(u, c, -(w * s)), first.value[j]);
    narrow(fmaf(w, c, u * s), second.value[j]);
  }
  *reinterpret_cast<PackT*>(y + at) = first;
  *reinterpret_cast<PackT*>(y + half + at) = second;
}

template <class T, int N>
__device__ void scale(const RopeProblem& p, int64_t token, int head, int item) {
  using PackT = Pack<T, N>;
  PackT a = *reinterpret_cast<const PackT*>(load_at<T, N>(p.v, token, head) + item * N);
#pragma unroll
  for (int j = 0; j < N; ++j) narrow(widen(a.value[j]) * p.value_scale, a.value[j]);
  *reinterpret_cast<PackT*>(store_at<T, N>(p.v, token, head) + item * N) = a;
}

// N elements per load. A block belongs to one token.
template <class T, int N>
__global__ void __launch_bounds__(kRopeThreads) rope_kernel(const RopeProblem p, RopePlan plan) {
  const int64_t token = blockIdx.x;
  int item = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  const int q_items = static_cast<int>(p.q.heads) * plan.head_items;
  const int k_items = static_cast<int>(p.k.heads) * plan.head_items;
  if (item < q_items)
    return rotate<T, N>(p, p.q, token, item / plan.head_items, item % plan.head_items);
  item -= q_items;
  if (item < k_items)
    return rotate<T, N>(p, p.k, token, item / plan.head_items, item % plan.head_items);
  item -= k_items;
  if (item < static_cast<int>(p.v.heads) * plan.value_items)
    scale<T, N>(p, token, item / plan.value_items, item % plan.value_items);
}

template <class T>
void launch(const RopeProblem& p, cudaStream_t stream) {
  const RopePlan plan = plan_rope(p, sizeof(T));
  if (p.tokens == 0 || plan.blocks_per_token == 0) return;
  auto* kernel = plan.wide ? rope_kernel<T, 16 / sizeof(T)> : rope_kernel<T, 1>;
  const dim3 grid(static_cast<unsigned>(p.tokens), plan.blocks_per_token);
  kernel<<<grid, plan.threads, 0, stream>>>(p, plan);
}

// A thread per pair, in x, and token, in y. Cosine and sine of the float32 angle are taken in
// float64, as on the CPU: a table is made once per pass.
__global__ void __launch_bounds__(kMostRopePairs) rope_table_kernel(const RopeTableProblem p) {
  const int64_t token = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (token >= p.tokens) return;
  const auto j = static_cast<int>(threadIdx.x);
  const float angle = static_cast<float>(p.positions[token]) * p.frequency[j];
  double sine, cosine;
  sincos(static_cast<double>(angle), &sine, &cosine);
  float* row = p.table + token * 2 * p.half;
  row[j] = static_cast<float>(cosine);
  row[p.half + j] = static_cast<float>(sine);
}

}  // namespace

void rope_f32_sm80(const RopeProblem& p, cudaStream_t stream) { launch<float>(p, stream); }
void rope_bf16_sm80(const RopeProblem& p, cudaStream_t stream) { launch<__nv_bfloat16>(p, stream); }

void rope_table_sm80(const RopeTableProblem& p, cudaStream_t stream) {
  if (p.tokens == 0 || p.half == 0) return;
  const dim3 threads(static_cast<unsigned>(p.half), static_cast<unsigned>(kMostRopePairs / p.half));
  const int64_t blocks = (p.tokens + threads.y - 1) / threads.y;
  rope_table_kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(p);
}

}  // namespace mn
