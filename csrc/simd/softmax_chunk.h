// The unit in which a row of logits is summed up, by the sampler and by the loss alike.
#pragma once

#include <cstdint>

namespace mn {

inline constexpr int64_t kSoftmaxChunk = 1024;

inline int64_t softmax_chunks(int64_t vocab) { return (vocab + kSoftmaxChunk - 1) / kSoftmaxChunk; }

}  // namespace mn
