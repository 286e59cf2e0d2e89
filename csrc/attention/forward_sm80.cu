// Flash attention for prefill, packed documents, cached chunks, decode steps and draft trees.
//
//   block   one kv head, tile_tokens tokens, all query heads of the kv head; a range of key tiles
//   step    64 keys: S = Q K^T, online softmax, O += P V, in bf16 with float32 sums
//   copies  values of a step arrive while its scores are computed, the next keys during P V
#include "attention/copy_sm80.cuh"
#include "attention/finish_sm80.cuh"
#include "attention/kernels_cuda.h"
#include "attention/lanes_sm80.cuh"
#include "attention/rows_sm80.cuh"
#include "runtime/cuda/device.h"

namespace mn {
namespace {

__device__ float most_of_four_lanes(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ float sum_of_four_lanes(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Head dims as constants, or 0: as the problem says.
template <int kQk, int kV>
struct Dims {
  static constexpr int kVTiles = (kV ? kV : kSm80MostV) / 8;
  int qk, v;  // as given
  __device__ explicit Dims(const AttentionSm80Problem& p)
      : qk(kQk ? kQk : p.dim_qk), v(kV ? kV : p.dim_v) {}
  __device__ int qk_steps() const { return (qk + 15) / 16; }
  __device__ int v_pairs() const { return (v + 15) / 16; }        // of 8 columns
  __device__ int qk_row() const { return qk_steps() * 32 + 16; }  // bytes in shared memory
  __device__ int v_row() const { return v_pairs() * 32 + 16; }
};

template <int kQk, int kV, int kRowWarps>
__global__ void __launch_bounds__(kSm80Threads)
    attention_kernel(const AttentionSm80Problem p, int tile_tokens, int splits) {
  constexpr int kKeyWarps = 4 / kRowWarps, kRows = 16 * kRowWarps;
  constexpr int kWarpKeys = kSm80KeyTile / kKeyWarps, kScoreTiles = kWarpKeys / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ int depths[kSm80KeyTile];
  __shared__ float warp_most[kKeyWarps][kRows], warp_sum[kKeyWarps][kRows];

  Block b;
  if (!find_block(p, tile_tokens, b)) return;
  const Dims<kQk, kV> dims(p);
  const int group = p.q_heads / p.kv_heads, rows = b.tokens * group;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int row_warp = warp % kRowWarps, key_warp = warp / kRowWarps;
  const uint32_t queries = shared_address(shared), keys = queries + kRows * dims.qk_row(),
                 values = keys + kSm80KeyTile * dims.qk_row();

  const auto [begin, end] = keys_of_split(b, splits);

  const auto copy_keys = [&](int tile) {
    copy_tile<kQk, __nv_bfloat16>(keys, dims.qk_row(), dims.qk, p, b, tile_at(b, tile), p.k,
                                  p.cache_keys);
    commit_copies();
  };
  if (begin < end) {
    copy_queries<kRows, kQk, __nv_bfloat16>(queries, dims.qk_row(), dims.qk, p, b);
    copy_keys(begin);
  }
  note_depths(p, b, depths);

  // This thread's rows of the warp's 16: lane / 4, and eight further down.
  Query query[2];
  Running running[2];
  for (int h = 0; h < 2; ++h) {
    const int row = row_warp * 16 + h * 8 + lane / 4;
    query[h] = row < rows ? query_of(p, b, row / group) : kBlindQuery;
  }
  float out[Dims<kQk, kV>::kVTiles][4] = {};

  for (int tile = begin; tile < end; ++tile) {
    const KeyTile at = tile_at(b, tile);
    wait_for_copies<0>();
    __syncthreads();  // the keys are there, and nobody reads the values before
    copy_tile<kV, __nv_bfloat16>(values, dims.v_row(), dims.v, p, b, at, p.v, p.cache_values);
    commit_copies();

    float score[kScoreTiles][4] = {};
    const uint32_t a_from = queries + (row_warp * 16 + lane % 16) * dims.qk_row() + lane / 16 * 16;
    const uint32_t b_from = keys +
                            (key_warp * kWarpKeys + lane % 8 + lane / 16 * 8) * dims.qk_row() +
                            lane / 8 % 2 * 16;
#pragma unroll
    for (int step = 0; step < (kQk ? kQk / 16 : dims.qk_steps()); ++step) {
      uint32_t a[4];
      load_matrices(a, a_from + step * 32);
#pragma unroll
      for (int n = 0; n < kScoreTiles; n += 2) {
        uint32_t k[4];
        load_matrices(k, b_from + n * 8 * dims.qk_row() + step * 32);
        multiply_add(score[n], a, k[0], k[1]);
        multiply_add(score[n + 1], a, k[2], k[3]);
      }
    }

    const bool all_seen = (at.committed || !p.ancestors) && at.position >= b.lowest &&
                          at.position + kSm80KeyTile - 1 <= (at.committed ? -1 : b.highest);
    if (!all_seen) {
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = key_warp * kWarpKeys + n * 8 + lane % 4 * 2 + i % 2;
          if (!sees(p, query[i / 2], at, key, depths)) score[n][i] = -INFINITY;
        }
    }

    wait_for_copies<0>();
    __syncthreads();  // the values are there, and nobody reads the keys any more
    if (tile + 1 < end) copy_keys(tile + 1);

#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float most = running[h].most;
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n)
        most = fmaxf(most, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
      most = most_of_four_lanes(most);
      // A row that has seen nothing yet keeps weights of 0.
      const float shift = most == -INFINITY ? 0 : most * p.scale_log2;
      const float fade = fast_exp2(fmaf(running[h].most, p.scale_log2, -shift));
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n)
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          score[n][i] = fast_exp2(fmaf(score[n][i], p.scale_log2, -shift));
          sum += score[n][i];
        }
      running[h] = {most, fmaf(running[h].sum, fade, sum)};
#pragma unroll
      for (int n = 0; n < Dims<kQk, kV>::kVTiles; ++n) {
        out[n][2 * h] *= fade;
        out[n][2 * h + 1] *= fade;
      }
    }

    const uint32_t v_from =
        values + (key_warp * kWarpKeys + lane % 16) * dims.v_row() + lane / 16 * 16;
#pragma unroll
    for (int step = 0; step < kWarpKeys / 16; ++step) {
      const float (&low)[4] = score[2 * step], (&high)[4] = score[2 * step + 1];
      const uint32_t weights[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]),
                                   pack_bf16(high[0], high[1]), pack_bf16(high[2], high[3])};
#pragma unroll
      for (int n = 0; n < Dims<kQk, kV>::kVTiles / 2; ++n) {
        if (!kV && n >= dims.v_pairs()) break;
        uint32_t v[4];
        load_matrices_transposed(v, v_from + step * 16 * dims.v_row() + n * 32);
        multiply_add(out[2 * n], weights, v[0], v[1]);
        multiply_add(out[2 * n + 1], weights, v[2], v[3]);
      }
    }
  }

  // Each warp's results to shared memory, made relative to the largest score of all warps.
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    running[h].most *= p.scale_log2;
    running[h].sum = sum_of_four_lanes(running[h].sum);
    if (lane % 4 == 0) {
      const int row = row_warp * 16 + h * 8 + lane / 4;
      warp_most[key_warp][row] = running[h].most;
      warp_sum[key_warp][row] = running[h].sum;
    }
  }
  __syncthreads();  // and nobody reads the tiles any more
  const int staged_row = dims.v_pairs() * 16 + 8;
  const uint32_t staged = shared_address(shared);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = row_warp * 16 + h * 8 + lane / 4;
    const int head = b.kv_head * group + row % group;
    const int64_t token = b.first_q + b.first_token + row / group;
    Running all;
    for (int w = 0; w < kKeyWarps; ++w) all.most = fmaxf(all.most, warp_most[w][row]);
    const float shift = all.most == -INFINITY ? 0 : all.most;
    for (int w = 0; w < kKeyWarps; ++w)
      all.sum = fmaf(warp_sum[w][row], fast_exp2(warp_most[w][row] - shift), all.sum);
    float factor = fast_exp2(running[h].most - shift);
    const bool writes = row < rows && lane % 4 == 0 && key_warp == 0;
    if (splits == 1) {
      const Finish done = finish(all.most, all.sum, row < rows ? sink_of(p, head) : 0);
      factor *= done.factor;
      if (writes) store_lse(p, b.sequence, head, token, done.lse);
    } else if (writes) {
      store_statistics(p, token, head, all.most, all.sum);
    }
    const uint32_t to = staged + (key_warp * kRows + row) * staged_row * 4 + lane % 4 * 8;
#pragma unroll
    for (int n = 0; n < Dims<kQk, kV>::kVTiles; n += 2) {
      if (!kV && n >= 2 * dims.v_pairs()) break;
      store_pair(to + n * 32, out[n][2 * h] * factor, out[n][2 * h + 1] * factor);
      store_pair(to + n * 32 + 32, out[n + 1][2 * h] * factor, out[n + 1][2 * h + 1] * factor);
    }
  }
  __syncthreads();
  const int quads = dims.v / 4;
  for (int i = static_cast<int>(threadIdx.x); i < rows * quads; i += kSm80Threads) {
    const int row = i / quads, column = i % quads * 4;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kKeyWarps; ++w) {
      const float4 x =
          reinterpret_cast<const float4*>(shared)[((w * kRows + row) * staged_row + column) / 4];
      sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
    }
    const int64_t token = b.first_q + b.first_token + row / group;
    const int64_t at = (token * p.q_heads + b.kv_head * group + row % group) * dims.v + column;
    if (splits == 1)
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(p.out) + at) =
          make_uint2(pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w));
    else
      // Not an assignment, which nvcc takes apart into four stores.
      __stcg(reinterpret_cast<float4*>(p.partial +
                                       blockIdx.z * int64_t{p.total_q} * p.q_heads * dims.v + at),
             sum);
  }
}

template <int kQk, int kV>
void launch(const AttentionSm80Problem& p, const AttentionSm80Plan& plan, cudaStream_t stream) {
  auto* kernel = plan.row_warps == 4 ? attention_kernel<kQk, kV, 4> : attention_kernel<kQk, kV, 1>;
  allow_shared_memory(kernel, static_cast<int>(plan.shared_bytes));
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(p.kv_heads),
                  static_cast<unsigned>(plan.splits));
  kernel<<<grid, kSm80Threads, static_cast<size_t>(plan.shared_bytes), stream>>>(
      p, plan.tile_tokens, plan.splits);
}

}  // namespace

void attention_bf16_sm80(const AttentionSm80Problem& p, const AttentionSm80Plan& plan,
                         cudaStream_t stream) {
  if (plan.tiles == 0) return;
  if (plan.released_dims)
    launch<192, 128>(p, plan, stream);
  else
    launch<0, 0>(p, plan, stream);
  if (plan.splits == 1) return;
  merge_splits_bf16_sm80(p, plan.splits, stream);
}

}  // namespace mn
