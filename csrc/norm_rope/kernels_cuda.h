// Host launchers of the CUDA kernels of this family.
#pragma once

#include <cuda_runtime_api.h>

#include "norm_rope/plan_sm80.h"

namespace mn {

void rms_norm_f32_sm80(const RmsNormProblem& problem, cudaStream_t stream);
void rms_norm_bf16_sm80(const RmsNormProblem& problem, cudaStream_t stream);
void rms_norm_bf16_weight_f32_sm80(const RmsNormProblem& problem, cudaStream_t stream);
// `cache`: where keys and values go besides, or null.
void rope_f32_sm80(const RopeProblem& problem, const RopeCacheSm80* cache, cudaStream_t stream);
void rope_bf16_sm80(const RopeProblem& problem, const RopeCacheSm80* cache, cudaStream_t stream);
void rope_table_sm80(const RopeTableProblem& problem, cudaStream_t stream);

}  // namespace mn
