// RMSNorm and rotary embedding: what a call hands to the kernels.
#pragma once

#include <cstdint>

#include "runtime/isa.h"

namespace mn {

// y[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + eps) * weight, statistics and product in float32, one
// rounding.
struct RmsNormProblem {
  int64_t rows, dim;
  int64_t x_stride;  // elements between rows of x; y is dense
  float eps;
  const void* x;
  const void* weight;
  void* y;
};

// With n = x[r, :] / sqrt(mean(x[r, :]^2) + eps) and g = dy[r, :] * weight:
//   dx[r, :] = (g - n * mean(g * n)) / sqrt(..)          dweight = sum over rows of dy[r, :] * n
// The rows of a chunk are added up in order, then the chunks; their number depends on rows alone.
struct RmsNormBackwardProblem {
  int64_t rows, dim;
  int64_t x_stride;  // dy and dx are dense
  float eps;
  const void* x;
  const void* weight;
  const void* dy;
  void* dx;
  void* dweight;
  int64_t chunk_rows, chunks;
  float* partial;  // [chunks][dim]
};

// One of q, k, v: token t, head h starts at in + t * token_stride + h * head_stride; out is dense
// [tokens, heads, dim].
struct RopeTensor {
  int64_t heads, dim;
  int64_t token_stride, head_stride;
  const void* in;
  void* out;
};

// Rotates dims [0, rotary_dim) of q and k (dim j pairs with j + rotary_dim / 2), copies the rest,
// scales v. The gradient is the same with the opposite angles.
struct RopeProblem {
  int64_t tokens;
  int64_t rotary_dim;
  const float* table;  // [tokens, rotary_dim]: cosines, then sines
  float value_scale;
  RopeTensor q, k, v;
  bool opposite = false;
};

struct NormRopeKernels {
  void (*rms_norm_f32)(const RmsNormProblem&);
  void (*rms_norm_bf16)(const RmsNormProblem&);             // bf16 x and weight
  void (*rms_norm_bf16_weight_f32)(const RmsNormProblem&);  // bf16 x, float32 weight
  void (*rms_norm_backward_f32)(const RmsNormBackwardProblem&);
  void (*rms_norm_backward_bf16)(const RmsNormBackwardProblem&);
  void (*rms_norm_backward_bf16_weight_f32)(const RmsNormBackwardProblem&);
  void (*rope_f32)(const RopeProblem&);
  void (*rope_bf16)(const RopeProblem&);
};

MN_DECLARE_KERNELS(NormRopeKernels, norm_rope_kernels)

// table[n, j] = cos(angle), table[n, rotary_dim / 2 + j] = sin(angle) with
// angle = float32(positions[n]) * (1 / theta^(2j / rotary_dim)), every step rounded to float32.
void rope_table(const int64_t* positions, int64_t n, double theta, int64_t rotary_dim,
                float* table);
// 1 / theta^(2j / rotary_dim) of pair j, rounded as above.
float rope_frequency(double theta, int64_t rotary_dim, int64_t j);

}  // namespace mn
