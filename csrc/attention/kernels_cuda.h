// Host launchers of the CUDA kernels of this family.
#pragma once

#include <cuda_runtime_api.h>

#include "attention/problem_sm80.h"

namespace mn {

// The plan is that of the problem's sizes.
void attention_bf16_sm80(const AttentionSm80Problem& problem, const AttentionSm80Plan& plan,
                         cudaStream_t stream);
void attention_f32_sm80(const AttentionSm80Problem& problem, const AttentionSm80Plan& plan,
                        cudaStream_t stream);
// Their last step where there are several splits.
void merge_splits_bf16_sm80(const AttentionSm80Problem& problem, int splits, cudaStream_t stream);
void merge_splits_f32_sm80(const AttentionSm80Problem& problem, int splits, cudaStream_t stream);

void cache_commit_sm80(const CommitSm80Problem& problem, cudaStream_t stream);

}  // namespace mn
