// Products of float32 or bf16 rows with float32 weights: multiply-adds on tiles that cp.async
// brings. A sum runs through the inputs in order, as on the CPU.
#include <cuda_bf16.h>

#include "gemm/kernels_cuda.h"
#include "gemm/tile_sm80.cuh"
#include "runtime/cuda/device.h"

namespace mn {
namespace {

constexpr int kAcross = 16;  // threads side by side; a thread's columns are 16 apart

template <int kBytes>
struct RowAfterRow {
  static constexpr int kRowBytes = kBytes;
  __device__ static uint32_t at(int row, int chunk) {
    return static_cast<uint32_t>(row * kRowBytes + chunk * 16);
  }
};

__device__ void load_four(float (&v)[4], const float* from) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}
__device__ void load_four(float (&v)[4], const __nv_bfloat16* from) {
  const uint2 four = *reinterpret_cast<const uint2*>(from);
  v[0] = __uint_as_float(four.x << 16), v[1] = __uint_as_float(four.x & 0xffff0000u);
  v[2] = __uint_as_float(four.y << 16), v[3] = __uint_as_float(four.y & 0xffff0000u);
}

template <int kTile, class X, GemmOutput kOut, bool kWide>
__global__ void __launch_bounds__(kF32Tiles[kTile].threads, 2)
    gemm_f32(const GemmSm80Problem p, uint32_t row_tiles, uint32_t column_tiles) {
  using Y = std::conditional_t<kOut == GemmOutput::bf16, __nv_bfloat16, float>;
  constexpr TileShape kShape = kF32Tiles[kTile];
  constexpr int kRows = kShape.rows, kColumns = kShape.columns, kThreads = kShape.threads;
  constexpr int kDepth = kShape.depth, kDown = kThreads / kAcross;
  constexpr int kMyRows = kRows / kDown, kMyColumns = kColumns / kAcross;
  constexpr int kHalves = kOut == GemmOutput::swiglu ? 2 : 1;
  using PlaceX = RowAfterRow<kDepth * sizeof(X)>;
  using PlaceW = RowAfterRow<kDepth * sizeof(float) + kF32Padding>;
  constexpr uint32_t kWeights = kRows * PlaceX::kRowBytes;  // from the start of a stage
  constexpr uint32_t kStage = kWeights + kColumns * PlaceW::kRowBytes;

  const BlockTile tile = block_tile(p, kRows, row_tiles, column_tiles);
  if (tile.first >= tile.end) return;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t base = shared_address(shared);
  const int across = threadIdx.x % kAcross, down = threadIdx.x / kAcross;
  const int width = p.outputs / kHalves;  // of y
  const int column0 = tile.column * (kColumns / kHalves);
  const int inputs = tile.group < p.groups ? p.inputs : 0;

  const RowLoader<X, kRows, kDepth, kThreads, PlaceX> rows([&](int r) {
    const int row = min(tile.first + r, tile.end - 1);
    return static_cast<const X*>(p.x) + int64_t{p.index ? p.index[row] : row} * p.x_stride;
  });
  const float* w = static_cast<const float*>(p.w) + (inputs ? tile.group * p.group_stride : 0);
  const RowLoader<float, kColumns, kDepth, kThreads, PlaceW> weights([&](int r) {
    constexpr int kOfHalf = kColumns / kHalves;
    const int column = min(column0 + r % kOfHalf, width - 1);
    return w + (int64_t{r / kOfHalf} * width + column) * p.w_stride;
  });

  float sum[kMyRows][kMyColumns] = {};
  const auto load = [&](int stage, int k) {
    rows.template load<kWide>(base + stage * kStage, k, inputs);
    weights.template load<kWide>(base + stage * kStage + kWeights, k, inputs);
  };
  const auto multiply = [&](int stage) {
    const unsigned char* from = shared + stage * kStage;
#pragma unroll 4
    for (int k = 0; k < kDepth; k += 4) {
      float a[kMyRows][4], b[kMyColumns][4];
#pragma unroll
      for (int i = 0; i < kMyRows; ++i)
        load_four(a[i], reinterpret_cast<const X*>(from + PlaceX::at(down + i * kDown, 0)) + k);
#pragma unroll
      for (int j = 0; j < kMyColumns; ++j)
        load_four(b[j], reinterpret_cast<const float*>(from + kWeights +
                                                       PlaceW::at(across + j * kAcross, 0)) +
                            k);
#pragma unroll
      for (int d = 0; d < 4; ++d)
#pragma unroll
        for (int i = 0; i < kMyRows; ++i)
#pragma unroll
          for (int j = 0; j < kMyColumns; ++j) sum[i][j] = fmaf(a[i][d], b[j][d], sum[i][j]);
    }
  };
  multiply_steps<kDepth, kShape.stages, kWide>(inputs, load, multiply);

#pragma unroll
  for (int i = 0; i < kMyRows; ++i) {
    const int row = tile.first + down + i * kDown;
    if (row >= tile.end) break;
    Y* y = static_cast<Y*>(p.y) + int64_t{row} * width;
#pragma unroll
    for (int j = 0; j < kMyColumns / kHalves; ++j) {
      const int column = column0 + across + j * kAcross;
      float v = sum[i][j];
      if constexpr (kOut == GemmOutput::swiglu) v = silu(v) * sum[i][j + kMyColumns / 2];
      if (column < width) narrow(v, y[column]);
    }
  }
}

template <int kTile, class X, GemmOutput kOut, bool kWide>
void launch(const GemmSm80Problem& p, const GemmSm80Plan& plan, cudaStream_t stream) {
  const auto kernel = gemm_f32<kTile, X, kOut, kWide>;
  allow_shared_memory(kernel, plan.shared_bytes);
  kernel<<<static_cast<unsigned>(plan.blocks()), kF32Tiles[kTile].threads, plan.shared_bytes,
           stream>>>(p, static_cast<uint32_t>(plan.row_tiles),
                     static_cast<uint32_t>(plan.column_tiles));
}

template <class X, GemmOutput kOut>
void launch_tile(const GemmSm80Problem& p, const GemmSm80Plan& plan, cudaStream_t stream) {
  if (!plan.wide) return launch<kMediumTile, X, kOut, false>(p, plan, stream);
  if (plan.tile == kSmallTile) return launch<kSmallTile, X, kOut, true>(p, plan, stream);
  launch<kMediumTile, X, kOut, true>(p, plan, stream);
}

template <class X>
void launch_output(const GemmSm80Problem& p, const GemmSm80Plan& plan, cudaStream_t stream) {
  if (p.output == GemmOutput::bf16) return launch_tile<X, GemmOutput::bf16>(p, plan, stream);
  if (p.output == GemmOutput::f32) return launch_tile<X, GemmOutput::f32>(p, plan, stream);
  launch_tile<X, GemmOutput::swiglu>(p, plan, stream);
}

}  // namespace

void gemm_f32_sm80(const GemmSm80Problem& p, const GemmSm80Plan& plan, cudaStream_t stream) {
  if (p.x_bf16) return launch_output<__nv_bfloat16>(p, plan, stream);
  launch_output<float>(p, plan, stream);
}

}  // namespace mn
