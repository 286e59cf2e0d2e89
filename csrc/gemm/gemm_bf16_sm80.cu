// Products of bf16 rows with bf16 weights: mma.sync on tiles that cp.async brings.
//
// A row's 64 inputs of a step are 128 bytes of shared memory, its chunks of 16 bytes permuted by
// the row, so that neither the copies nor ldmatrix meet a bank twice. The columns of a warp are
// dealt out so that a thread's sums of a row are neighbours in y: with n tiles of 8 columns, column
// c of tile j is output c / 2 * 2 n + 2 j + c % 2. For SwiGLU one half of the tiles holds gates and
// the other, in the same order, ups. The sums of an output run through the inputs in the same order
// in every tile size.
#include <cuda_bf16.h>

#include "gemm/kernels_cuda.h"
#include "gemm/tile_sm80.cuh"
#include "runtime/cuda/device.h"

namespace mn {
namespace {

constexpr int kWarpRows[] = {16, 32, 64}, kWarpColumns[] = {16, 32, 32};
constexpr int kBlocksPerProcessor[] = {4, 2, 2};
constexpr int kDepth = 64;  // of every tile

struct Swizzled {
  __device__ static uint32_t at(int row, int chunk) {
    return static_cast<uint32_t>(row * kDepth * 2 + ((chunk ^ (row % 8)) << 4));
  }
};

// kCount neighbours in y, of which `left` exist; `whole`: all or none of them.
template <int kCount>
__device__ void store(float* y, const float (&v)[kCount], int left, bool whole) {
  if (whole) {
    if (left <= 0) return;
#pragma unroll
    for (int i = 0; i < kCount; i += 4)
      *reinterpret_cast<float4*>(y + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (i < left) y[i] = v[i];
  }
}

template <int kCount>
__device__ void store(__nv_bfloat16* y, const float (&v)[kCount], int left, bool whole) {
  struct alignas(kCount * 2) Pack {
    __nv_bfloat162 pair[kCount / 2];
  };
  if (whole) {
    if (left <= 0) return;
    Pack pack;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i)
      pack.pair[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
    *reinterpret_cast<Pack*>(y) = pack;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (i < left) y[i] = __float2bfloat16_rn(v[i]);
  }
}

template <int kTile, GemmOutput kOut, bool kWide>
__global__ void __launch_bounds__(kBf16Tiles[kTile].threads, kBlocksPerProcessor[kTile])
    gemm_bf16(const GemmSm80Problem p, uint32_t row_tiles, uint32_t column_tiles) {
  using T = __nv_bfloat16;
  using Y = std::conditional_t<kOut == GemmOutput::f32, float, T>;
  constexpr TileShape kShape = kBf16Tiles[kTile];
  constexpr int kRows = kShape.rows, kColumns = kShape.columns, kThreads = kShape.threads;
  constexpr int kRowTiles = kWarpRows[kTile] / 16, kColumnTiles = kWarpColumns[kTile] / 8;
  constexpr int kHalves = kOut == GemmOutput::swiglu ? 2 : 1;
  constexpr int kNeighbours = 2 * kColumnTiles / kHalves;  // in y, of a thread
  constexpr uint32_t kRowBytes = kDepth * 2;
  constexpr uint32_t kWeights = kRows * kRowBytes;  // from the start of a stage
  constexpr uint32_t kStage = kWeights + kColumns * kRowBytes;
  static_assert(kShape.depth == kDepth);

  const BlockTile tile = block_tile(p, kRows, row_tiles, column_tiles);
  if (tile.first >= tile.end) return;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t base = shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  constexpr int kWarpsDown = kRows / kWarpRows[kTile];
  const int warp_row = warp % kWarpsDown * kWarpRows[kTile];
  const int warp_column = warp / kWarpsDown * kWarpColumns[kTile];
  const int width = p.outputs / kHalves;  // of y
  const int column0 = tile.column * (kColumns / kHalves);
  const int inputs = tile.group < p.groups ? p.inputs : 0;

  const RowLoader<T, kRows, kDepth, kThreads, Swizzled> rows([&](int r) {
    const int row = min(tile.first + r, tile.end - 1);
    return static_cast<const T*>(p.x) + int64_t{p.index ? p.index[row] : row} * p.x_stride;
  });
  const T* w = static_cast<const T*>(p.w) + (inputs ? tile.group * p.group_stride : 0);
  const RowLoader<T, kColumns, kDepth, kThreads, Swizzled> weights([&](int r) {
    const int j = r / 8 % kColumnTiles, c = r % 8, of_half = kColumnTiles / kHalves;
    const int warp_first = r / (8 * kColumnTiles) * (8 * of_half);
    const int column = column0 + warp_first + c / 2 * kNeighbours + 2 * (j % of_half) + c % 2;
    return w + (int64_t{j / of_half} * width + min(column, width - 1)) * p.w_stride;
  });

  float sum[kRowTiles][kColumnTiles][4] = {};
  const auto load = [&](int stage, int k) {
    rows.template load<kWide>(base + stage * kStage, k, inputs);
    weights.template load<kWide>(base + stage * kStage + kWeights, k, inputs);
  };
  const auto multiply = [&](int stage) {
    const uint32_t from = base + stage * kStage;
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t a[kRowTiles][4], b[kColumnTiles / 2][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
        load_matrices(a[i], from + Swizzled::at(warp_row + i * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (int j = 0; j < kColumnTiles / 2; ++j)
        load_matrices(b[j], from + kWeights +
                                Swizzled::at(warp_column + j * 16 + lane % 8 + lane / 16 * 8,
                                             2 * k + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j)
          multiply_add(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  };
  multiply_steps<kDepth, kShape.stages, kWide>(inputs, load, multiply);

  const int column = column0 + warp_column / kHalves + lane % 4 * kNeighbours;
  const bool whole = width % kNeighbours == 0;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = tile.first + warp_row + i * 16 + h * 8 + lane / 4;
      if (row >= tile.end) continue;
      float v[kNeighbours];
#pragma unroll
      for (int n = 0; n < kNeighbours; ++n) {
        v[n] = sum[i][n / 2][2 * h + n % 2];
        if constexpr (kOut == GemmOutput::swiglu)
          v[n] = silu(v[n]) * sum[i][kColumnTiles / 2 + n / 2][2 * h + n % 2];
      }
      store(static_cast<Y*>(p.y) + int64_t{row} * width + column, v, width - column, whole);
    }
}

template <int kTile, GemmOutput kOut, bool kWide>
void launch(const GemmSm80Problem& p, const GemmSm80Plan& plan, cudaStream_t stream) {
  const auto kernel = gemm_bf16<kTile, kOut, kWide>;
  allow_shared_memory(kernel, plan.shared_bytes);
  kernel<<<static_cast<unsigned>(plan.blocks()), kBf16Tiles[kTile].threads, plan.shared_bytes,
           stream>>>(p, static_cast<uint32_t>(plan.row_tiles),
                     static_cast<uint32_t>(plan.column_tiles));
}

template <GemmOutput kOut>
void launch_tile(const GemmSm80Problem& p, const GemmSm80Plan& plan, cudaStream_t stream) {
  if (!plan.wide) return launch<kMediumTile, kOut, false>(p, plan, stream);
  if (plan.tile == kSmallTile) return launch<kSmallTile, kOut, true>(p, plan, stream);
  if (plan.tile == kMediumTile) return launch<kMediumTile, kOut, true>(p, plan, stream);
  launch<kLargeTile, kOut, true>(p, plan, stream);
}

}  // namespace

void gemm_bf16_sm80(const GemmSm80Problem& p, const GemmSm80Plan& plan, cudaStream_t stream) {
  if (p.output == GemmOutput::bf16) return launch_tile<GemmOutput::bf16>(p, plan, stream);
  if (p.output == GemmOutput::f32) return launch_tile<GemmOutput::f32>(p, plan, stream);
  launch_tile<GemmOutput::swiglu>(p, plan, stream);
}

}  // namespace mn
