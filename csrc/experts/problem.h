// Routed SwiGLU layers: what a call hands to the kernels.
#pragma once

#include "gemm/problem.h"

namespace mn {

// y[r, j] = silu(gate_up[r, j]) * gate_up[r, ffn + j], unclamped, in float32.
struct SwigluProblem {
  int64_t rows, ffn;
  int64_t x_stride;  // elements between rows of gate_up; y is dense
  const void* gate_up;
  void* y;
};

// y_t = sum over slots k, in order, of weights_tk * W_down h with h = swiglu(W_gate_up x_t) of the
// slot's expert. A dense layer has one group, one slot and no weights.
struct ExpertProblem {
  int64_t tokens, slots;
  RowSource x;  // index: token of each sorted row
  Weights gate_up, down;
  const int32_t* position = nullptr;  // [tokens, slots] sorted row; null where it is the token
  const float* weights = nullptr;     // [tokens, slots]; null for 1
  void* y;                            // [tokens, width], dense
  bool y_bf16;
  Rows rows = {};
  void* packed_x = nullptr;  // scratch for the sorted rows
  void* packed_h = nullptr;  // and for the activations between the two products
  int64_t ffn_panels_per_job = 1, width_panels_per_job = 1;
  int threads = 1;
  char* thread_scratch = nullptr;
  int64_t thread_scratch_bytes = 0;  // of each thread
};

struct ExpertKernels {
  void (*swiglu_f32)(const SwigluProblem&);
  void (*swiglu_bf16)(const SwigluProblem&);
  void (*forward[kFormats])(const ExpertProblem&);
};

MN_DECLARE_KERNELS(ExpertKernels, expert_kernels)

}  // namespace mn
