// Routed SwiGLU layers: what a call hands to the kernels. A dense layer has one group and one slot.
// Rows are (token, slot) pairs sorted by expert.
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

// Its gradient for dense dy, gate_up and d_gate_up.
struct SwigluGradProblem {
  int64_t rows, ffn;
  const void *dy, *gate_up;
  void* d_gate_up;
};

// Working memory and the cut of the work, which do not change a bit of the result.
struct Work {
  int64_t ffn_panels_per_job, width_panels_per_job;
  int64_t sum_panels_per_job;  // where the products of a SlotSum are stored
  int threads;
  char* thread_scratch;
  int64_t thread_scratch_bytes;  // of each thread
};

// From a stored row of products to the next: an odd number of cache lines, else where a row has
// 1024 columns all rows of a panel's sums meet in one set of L1.
static inline int64_t product_stride(const PackedLayout& l) { return l.panels() * kPanel + 16; }

// y_t = sum over slots k, in order, of weights_tk * W packed row of the slot.
struct SlotSum {
  int64_t tokens, slots;
  Rows rows;
  Weights w;
  const void* packed;
  const int32_t* position;  // [tokens, slots] sorted row; null where it is the token
  const float* weights;     // [tokens, slots]; null for 1
  float* products;          // scratch, rows of product_stride; null where they are not stored
  void* y;                  // [tokens, outputs of w], dense
  bool y_bf16;
};

// y_t = sum over slots k of weights_tk * W_down swiglu(W_gate_up x_t), of the slot's expert.
struct ExpertProblem {
  RowSource x;  // of each sorted row
  Weights gate_up;
  void* saved;     // [rows, 2 ffn] gate and up for the backward; or null
  void* packed_x;  // scratch for the sorted rows
  void* packed_h;  // and for the activations between the two products
  SlotSum down;    // `packed` is packed_h
  Work work;
};

// With dy_r the gradient of the token of row r and q_r = W_down^T dy_r:
//   dweights_r = q_r . h_r     so the down product itself is not needed
//   d_gate_up_r = swiglu'(gate_up_r) weight_r q_r
//   dx_t = sum over slots of W_gate_up^T d_gate_up
// The gradients of the weights follow from d_gate_up and from `scaled_h` = weight_r h_r.
struct ExpertBackwardProblem {
  RowSource dy;  // of each sorted row
  Rows rows;
  int64_t ffn;
  const void* saved;        // [rows, 2 ffn]
  const float* row_weight;  // [rows]; null for 1
  Weights down_transposed;  // [ffn outputs, width inputs]
  void* d_gate_up;          // [rows, 2 ffn]
  void* scaled_h;           // [rows, ffn]
  float* dots;              // scratch [ffn panels, rows]; null where dweights are not asked for
  float* row_dots;          // [rows]
  void* packed_dy;          // scratch for the sorted rows
  bool wants_dx;
  void* packed_d;  // scratch for the rows of d_gate_up
  SlotSum dx;      // `packed` is packed_d
  Work work;
};

struct ExpertKernels {
  void (*swiglu_f32)(const SwigluProblem&);
  void (*swiglu_bf16)(const SwigluProblem&);
  void (*swiglu_grad_f32)(const SwigluGradProblem&);
  void (*swiglu_grad_bf16)(const SwigluGradProblem&);
  void (*forward[kKinds])(const ExpertProblem&);
};
struct ExpertBackwardKernels {
  void (*backward[kPlainFormats])(const ExpertBackwardProblem&);
};

MN_DECLARE_KERNELS(ExpertKernels, expert_kernels)
MN_DECLARE_KERNELS(ExpertBackwardKernels, expert_backward_kernels)

}  // namespace mn
