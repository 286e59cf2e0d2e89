// From checked arguments to kernels: passes over tokens, plan, scratch, calls. Needs no Python.
#pragma once

#include "experts/problem.h"

namespace mn {

// A routed layer, or a dense one, which has one slot and no ids.
struct ExpertLayer {
  Weights gate_up, down;
  bool routed;
  const int32_t* ids;    // [tokens, slots]
  const float* weights;  // [tokens, slots]; null for 1
  int64_t slots;
};

// `saved`: null, or [tokens * slots, 2 ffn] for the backward of the same layer and tokens.
void run_experts(const ExpertLayer& layer, const RowSource& x, int64_t tokens, void* saved, void* y,
                 bool y_bf16);

struct ExpertGrads {
  void* dx;          // [tokens, width], or null
  float* dweights;   // [tokens, slots], or null
  void* dw_gate_up;  // like the weights, or null
  void* dw_down;     // like the weights, or null
  void* d_gate_up;   // working memory [tokens * slots, 2 ffn]
  void* scaled_h;    // working memory [tokens * slots, ffn]
};

// dy and x in the dtype of the weights, which are plain.
void run_experts_backward(const ExpertLayer& layer, const RowSource& dy, const RowSource& x,
                          int64_t tokens, const void* saved, const ExpertGrads& grads);

}  // namespace mn
