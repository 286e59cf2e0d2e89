// Several neighbouring values in one load or store, and what every kernel does with one value.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace mn {

template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T value[N];
};

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void narrow(float x, float& out) { out = x; }
__device__ inline void narrow(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }

__device__ inline float silu(float x) { return x / (1.f + expf(-x)); }

template <class T, int N>
__device__ inline Vector<T, N> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}

template <class T, int N>
__device__ inline void store_vector(T* to, const float (&x)[N]) {
  Vector<T, N> v;
#pragma unroll
  for (int i = 0; i < N; ++i) narrow(x[i], v.value[i]);
  *reinterpret_cast<Vector<T, N>*>(to) = v;
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

}  // namespace mn
