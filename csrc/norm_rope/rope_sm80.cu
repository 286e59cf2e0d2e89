// Rotary embedding and value scale: a thread turns one load of each half of a head, or copies or
// scales one load of the rest. Keys and values may go to a layer's cache as well.
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

// Stores to y, and to `also` unless that is null.
template <class T, int N>
__device__ void store(const Pack<T, N>& x, T* y, T* also, int at) {
  *reinterpret_cast<Pack<T, N>*>(y + at) = x;
  if (also) *reinterpret_cast<Pack<T, N>*>(also + at) = x;
}

// `item` counts the loads of one head: first the pairs of the rotated part, then what is copied.
template <class T, int N>
__device__ void rotate(const RopeProblem& p, const RopeTensor& t, int64_t token, int head, int item,
                       T* also) {
  using PackT = Pack<T, N>;
  const T* x = load_at<T, N>(t, token, head);
  T* y = store_at<T, N>(t, token, head);
  const int half = static_cast<int>(p.rotary_dim / 2), turned = half / N;
  if (item >= turned) {
    const int at = 2 * half + (item - turned) * N;
    return store(*reinterpret_cast<const PackT*>(x + at), y, also, at);
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
  store(first, y, also, at);
  store(second, y, also, half + at);
}

template <class T, int N>
__device__ void scale(const RopeProblem& p, int64_t token, int head, int item, T* also) {
  using PackT = Pack<T, N>;
  PackT a = *reinterpret_cast<const PackT*>(load_at<T, N>(p.v, token, head) + item * N);
#pragma unroll
  for (int j = 0; j < N; ++j) narrow(widen(a.value[j]) * p.value_scale, a.value[j]);
  store(a, store_at<T, N>(p.v, token, head), also, item * N);
}

// A token's place in a layer's cache, head 0: null where it has none.
template <class T>
struct Place {
  T *key = nullptr, *value = nullptr;
  int64_t capacity = 0;  // tokens from one head to the next
};

template <class T>
__device__ T* head_of(T* first, int64_t capacity, int64_t dim, int head) {
  return first ? first + head * capacity * dim : nullptr;
}

// N elements per load. A block belongs to one token.
template <class T, int N>
__device__ void turn(const RopeProblem& p, const RopePlan& plan, const Place<T>& to) {
  const int64_t token = blockIdx.x;
  int item = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  const int q_items = static_cast<int>(p.q.heads) * plan.head_items;
  const int k_items = static_cast<int>(p.k.heads) * plan.head_items;
  if (item < q_items)
    return rotate<T, N>(p, p.q, token, item / plan.head_items, item % plan.head_items, nullptr);
  item -= q_items;
  if (item < k_items) {
    const int head = item / plan.head_items;
    T* also = head_of(to.key, to.capacity, p.k.dim, head);
    return rotate<T, N>(p, p.k, token, head, item % plan.head_items, also);
  }
  item -= k_items;
  if (item < static_cast<int>(p.v.heads) * plan.value_items) {
    const int head = item / plan.value_items;
    T* also = head_of(to.value, to.capacity, p.v.dim, head);
    scale<T, N>(p, token, head, item % plan.value_items, also);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kRopeThreads) rope_kernel(const RopeProblem p, RopePlan plan) {
  turn<T, N>(p, plan, {});
}

template <class T, int N>
__global__ void __launch_bounds__(kRopeThreads)
    rope_cached_kernel(const RopeProblem p, RopePlan plan, const RopeCacheSm80 cache) {
  const int64_t row = cache.rows[blockIdx.x], position = cache.positions[blockIdx.x];
  Place<T> to;
  // Places that the cache does not have are left out; nobody checked them.
  if (row >= 0 && row < cache.cache_rows && position >= 0 && position < cache.capacity) {
    to.capacity = cache.capacity;
    to.key = static_cast<T*>(cache.keys) + (row * p.k.heads * cache.capacity + position) * p.k.dim;
    to.value =
        static_cast<T*>(cache.values) + (row * p.v.heads * cache.capacity + position) * p.v.dim;
  }
  turn<T, N>(p, plan, to);
}

template <class T>
void launch(const RopeProblem& p, const RopeCacheSm80* cache, cudaStream_t stream) {
  const RopePlan plan = plan_rope(p, cache, sizeof(T));
  if (p.tokens == 0 || plan.blocks_per_token == 0) return;
  constexpr int kWide = 16 / sizeof(T);
  const dim3 grid(static_cast<unsigned>(p.tokens), plan.blocks_per_token);
  if (cache) {
    auto* kernel = plan.wide ? rope_cached_kernel<T, kWide> : rope_cached_kernel<T, 1>;
    kernel<<<grid, plan.threads, 0, stream>>>(p, plan, *cache);
  } else {
    auto* kernel = plan.wide ? rope_kernel<T, kWide> : rope_kernel<T, 1>;
    kernel<<<grid, plan.threads, 0, stream>>>(p, plan);
  }
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

void rope_f32_sm80(const RopeProblem& p, const RopeCacheSm80* cache, cudaStream_t stream) {
  launch<float>(p, cache, stream);
}

void rope_bf16_sm80(const RopeProblem& p, const RopeCacheSm80* cache, cudaStream_t stream) {
  launch<__nv_bfloat16>(p, cache, stream);
}

void rope_table_sm80(const RopeTableProblem& p, cudaStream_t stream) {
  if (p.tokens == 0 || p.half == 0) return;
  const dim3 threads(static_cast<unsigned>(p.half), static_cast<unsigned>(kMostRopePairs / p.half));
  const int64_t blocks = (p.tokens + threads.y - 1) / threads.y;
  rope_table_kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(p);
}

}  // namespace mn
