// The results of several splits of the keys become one; the sink enters here, once.
#include "attention/finish_sm80.cuh"
#include "attention/kernels_cuda.h"

namespace mn {
namespace {

__device__ void store(__nv_bfloat16* to, float4 x) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
}
__device__ void store(float* to, float4 x) { __stcg(reinterpret_cast<float4*>(to), x); }

constexpr int kWarps = kSm80Threads / 32;
static_assert(kSm80MostV <= 32 * 4);  // a lane has four columns

// The splits of a token's head, by one warp: lane s holds the statistics of split s.
template <class T>
__global__ void __launch_bounds__(kSm80Threads)
    merge_kernel(const AttentionSm80Problem p, int splits) {
  const int lane = static_cast<int>(threadIdx.x % 32), token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  if (head >= p.q_heads) return;
  const int64_t rows = int64_t{p.total_q} * p.q_heads, row = int64_t{token} * p.q_heads + head;
  float2 own = make_float2(-INFINITY, 0);
  if (lane < splits) own = reinterpret_cast<const float2*>(p.partial_stats)[lane * rows + row];
  float most = own.x;
  for (int offset = 16; offset > 0; offset /= 2)
    most = fmaxf(most, __shfl_xor_sync(~0u, most, offset));
  const float weight = most == -INFINITY ? 0 : fast_exp2(own.x - most);
  float sum = own.y * weight;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  const Finish done = finish(most, sum, sink_of(p, head));
  const int sequence = p.q_edges.data ? 0 : token / p.q_tokens;
  if (lane == 0) store_lse(p, sequence, head, token, done.lse);
  // Lanes beyond the last column read what its owner reads, and store nothing.
  const int column = lane * 4;
  const float* from = p.partial + row * p.dim_v + min(column, p.dim_v - 4);
  const float factor = weight * done.factor;
  float4 total = make_float4(0, 0, 0, 0);
  for (int s = 0; s < splits; ++s, from += rows * p.dim_v) {
    const float w = __shfl_sync(~0u, factor, s);
    const float4 x = *reinterpret_cast<const float4*>(from);
    total = make_float4(fmaf(x.x, w, total.x), fmaf(x.y, w, total.y), fmaf(x.z, w, total.z),
                        fmaf(x.w, w, total.w));
  }
  if (column < p.dim_v) store(static_cast<T*>(p.out) + row * p.dim_v + column, total);
}

template <class T>
void launch(const AttentionSm80Problem& p, int splits, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.total_q),
                  static_cast<unsigned>((p.q_heads + kWarps - 1) / kWarps));
  merge_kernel<T><<<grid, kSm80Threads, 0, stream>>>(p, splits);
}

}  // namespace

void merge_splits_bf16_sm80(const AttentionSm80Problem& p, int splits, cudaStream_t stream) {
  launch<__nv_bfloat16>(p, splits, stream);
}
void merge_splits_f32_sm80(const AttentionSm80Problem& p, int splits, cudaStream_t stream) {
  launch<float>(p, splits, stream);
}

}  // namespace mn
