// Host launchers of the CUDA kernels of this family.
#pragma once

#include <cuda_runtime_api.h>

#include "gemm/plan_sm80.h"

namespace mn {

// With bf16 weights, and with float32 weights.
void gemm_bf16_sm80(const GemmSm80Problem& problem, const GemmSm80Plan& plan, cudaStream_t stream);
void gemm_f32_sm80(const GemmSm80Problem& problem, const GemmSm80Plan& plan, cudaStream_t stream);

inline void gemm_sm80(const GemmSm80Problem& problem, const GemmSm80Plan& plan,
                      cudaStream_t stream) {
  (problem.w_bf16 ? gemm_bf16_sm80 : gemm_f32_sm80)(problem, plan, stream);
}

}  // namespace mn
