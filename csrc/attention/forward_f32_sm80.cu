// Attention in float32, without matrix instructions: the definition's precision where it is wanted.
// Blocks, tiles and splits are those of forward_sm80.cu.
//
//   scores   a lane has two keys of the tile; all rows of a warp see each of their loads
//   weights  row by row, in shared memory, from where a lane adds up its columns of the values
//
// Scores and sums pass through shared memory so that the mask, the softmax and the stores can be
// loops over the rows; only products are written out for every row.
#include "attention/copy_sm80.cuh"
#include "attention/finish_sm80.cuh"
#include "attention/kernels_cuda.h"
#include "runtime/cuda/device.h"

namespace mn {
namespace {

constexpr int kWarps = kSm80Threads / 32, kLaneKeys = kSm80KeyTile / 32;
constexpr int kColumns = kSm80MostV / 32;  // of a lane

__device__ float4 quad(const unsigned char* row, int i) {
  return reinterpret_cast<const float4*>(row)[i];
}

__device__ float dot(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

__device__ float most_of_warp(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}

__device__ float sum_of_warp(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

template <int kRows>
__global__ void __launch_bounds__(kSm80Threads, 2)
    attention_f32_kernel(const AttentionSm80Problem p, int tile_tokens, int splits) {
  constexpr int kWarpRows = kRows / kWarps;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ int depths[kSm80KeyTile];
  __shared__ float weights[kRows][kSm80KeyTile], fades[kRows];
  // What each row sees.
  __shared__ int lowest[kRows], highest[kRows];
  __shared__ uint64_t masks[kRows];

  Block b;
  if (!find_block(p, tile_tokens, b)) return;
  const int group = p.q_heads / p.kv_heads, rows = b.tokens * group;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int first_row = thread / 32 * kWarpRows;  // of this warp's
  const int qk_row = p.dim_qk * 4 + 16, v_row = p.dim_v * 4 + 16;
  unsigned char *const queries = shared, *const keys = queries + kRows * qk_row,
                       *const values = keys + kSm80KeyTile * qk_row;
  const KeyRange range = keys_of_split(b, splits);
  if (range.begin < range.end)
    copy_queries<kRows, 0, float>(shared_address(queries), qk_row, p.dim_qk, p, b);
  note_depths(p, b, depths);

  if (thread < kRows) {
    const Query query = thread < rows ? query_of(p, b, thread / group) : kBlindQuery;
    lowest[thread] = query.lowest, highest[thread] = query.highest, masks[thread] = query.mask;
  }
  Running running;  // lane r: of the warp's row r
  float out[kWarpRows][kColumns] = {};

  for (int tile = range.begin; tile < range.end; ++tile) {
    const KeyTile at = tile_at(b, tile);
    __syncthreads();  // nobody reads the tile before
    copy_tile<0, float>(shared_address(keys), qk_row, p.dim_qk, p, b, at, p.k, p.cache_keys);
    copy_tile<0, float>(shared_address(values), v_row, p.dim_v, p, b, at, p.v, p.cache_values);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();

    float score[kWarpRows][kLaneKeys] = {};
#pragma unroll 1
    for (int d = 0; d < p.dim_qk / 4; ++d) {
      float4 key[kLaneKeys];
#pragma unroll
      for (int i = 0; i < kLaneKeys; ++i) key[i] = quad(keys + (lane + 32 * i) * qk_row, d);
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        const float4 q = quad(queries + (first_row + r) * qk_row, d);
#pragma unroll
        for (int i = 0; i < kLaneKeys; ++i) score[r][i] = dot(q, key[i], score[r][i]);
      }
    }
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r)
#pragma unroll
      for (int i = 0; i < kLaneKeys; ++i) weights[first_row + r][lane + 32 * i] = score[r][i];

#pragma unroll 1
    for (int r = 0; r < kWarpRows; ++r) {
      const int row = first_row + r;
      const Query query{lowest[row], highest[row], masks[row]};
      const float before = __shfl_sync(~0u, running.most, r);
      float most = before, own[kLaneKeys];
#pragma unroll
      for (int i = 0; i < kLaneKeys; ++i) {
        const int key = lane + 32 * i;
        own[i] = sees(p, query, at, key, depths) ? weights[row][key] * p.scale_log2 : -INFINITY;
        most = fmaxf(most, own[i]);
      }
      most = most_of_warp(most);
      const float shift = most == -INFINITY ? 0 : most;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kLaneKeys; ++i) {
        const float weight = fast_exp2(own[i] - shift);
        sum += weight;
        weights[row][lane + 32 * i] = weight;
      }
      sum = sum_of_warp(sum);
      if (lane == r) {
        fades[row] = fast_exp2(before - shift);
        running = {most, fmaf(running.sum, fades[row], sum)};
      }
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) out[r][c] *= fades[first_row + r];
#pragma unroll 1
    for (int key = 0; key < kSm80KeyTile; ++key) {
      const auto* row = reinterpret_cast<const float*>(values + key * v_row);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (lane + 32 * c >= p.dim_v) break;
        const float value = row[lane + 32 * c];
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r)
          out[r][c] = fmaf(weights[first_row + r][key], value, out[r][c]);
      }
    }
  }

  __syncthreads();  // nobody reads the values any more; [kRows][dim_v] take their place
  auto* const staged = reinterpret_cast<float*>(values);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + 32 * c >= p.dim_v) break;
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r)
      staged[(first_row + r) * p.dim_v + lane + 32 * c] = out[r][c];
  }
#pragma unroll 1
  for (int r = 0; r < kWarpRows; ++r) {
    const int row = first_row + r;
    if (row >= rows) break;
    const float most = __shfl_sync(~0u, running.most, r);
    const float sum = __shfl_sync(~0u, running.sum, r);
    const int head = b.kv_head * group + row % group;
    const int64_t token = b.first_q + b.first_token + row / group;
    float factor = 1, *to = p.partial + blockIdx.z * int64_t{p.total_q} * p.q_heads * p.dim_v;
    if (splits == 1) {
      const Finish done = finish(most, sum, sink_of(p, head));
      factor = done.factor;
      to = static_cast<float*>(p.out);
      if (lane == 0) store_lse(p, b.sequence, head, token, done.lse);
    } else if (lane == 0) {
      store_statistics(p, token, head, most, sum);
    }
    to += (token * p.q_heads + head) * p.dim_v;
    // A lane reads what it wrote.
#pragma unroll 1
    for (int column = lane; column < p.dim_v; column += 32)
      to[column] = staged[row * p.dim_v + column] * factor;
  }
}

}  // namespace

void attention_f32_sm80(const AttentionSm80Problem& p, const AttentionSm80Plan& plan,
                        cudaStream_t stream) {
  if (plan.tiles == 0) return;
  auto* kernel = plan.row_warps == 4 ? attention_f32_kernel<64> : attention_f32_kernel<16>;
  allow_shared_memory(kernel, static_cast<int>(plan.shared_bytes));
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(p.kv_heads),
                  static_cast<unsigned>(plan.splits));
  kernel<<<grid, kSm80Threads, static_cast<size_t>(plan.shared_bytes), stream>>>(
      p, plan.tile_tokens, plan.splits);
  if (plan.splits > 1) merge_splits_f32_sm80(p, plan.splits, stream);
}

}  // namespace mn
