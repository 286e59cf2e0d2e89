// Host launchers of the CUDA kernels of this family.
#pragma once

#include <cuda_runtime_api.h>

#include "sampling/problem.h"

namespace mn {

inline constexpr int kSampleChunk = 1024;       // ids whose weights are summed by one warp
inline constexpr int kMostSampleChunks = 4096;  // their sums lie in shared memory

// Of the controls only the temperature is honoured. A row that holds NaN or +inf or nothing but
// -inf gets the id -1 and NaN.
void sample_f32_sm80(const SampleProblem& problem, cudaStream_t stream);
void sample_bf16_sm80(const SampleProblem& problem, cudaStream_t stream);

}  // namespace mn
