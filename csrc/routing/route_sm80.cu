// The top-k router: a warp per token, its scores and keys in registers.
//
// The k best are taken one after the other: each lane finds the best of its keys, two warp
// reductions find the best of all and the lowest id that has it. No sort, and no shared memory
// unless experts come in groups.
#include <cmath>

#include "routing/kernels_cuda.h"
#include "routing/select_sm80.cuh"

namespace mn {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kBlocksPerProcessor = 4;  // leaves 128 registers to a thread: nothing is spilled
constexpr int kStatsExperts = 32, kStatsStrands = 8;  // threads of a block

__device__ float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

// As the largest of numbers; NaN is dropped here and met again by the exponential.
__device__ float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}

__device__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// A lane's part of a row of scores.
template <int kPerLane>
struct Scores {
  float of[kPerLane];  // expert i * 32 + lane; 0 beyond the last
  float largest;       // logit, for softmax
  float divisor;       // of the exponentials

  __device__ Scores(const RouteProblem& p, const float* logits, int lane) : largest(0), divisor(1) {
    const int experts = static_cast<int>(p.experts);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = i * 32 + lane;
      of[i] = e < experts ? logits[e] : -INFINITY;
    }
    if (p.rule.scoring == Scoring::sigmoid) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) of[i] = sigmoid(of[i]);
      return;
    }
    largest = of[0];
#pragma unroll
    for (int i = 1; i < kPerLane; ++i) largest = fmaxf(largest, of[i]);
    largest = warp_max(largest);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      of[i] = expf(of[i] - largest);
      sum += of[i];
    }
    divisor = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) of[i] /= divisor;
  }

  // The same score from its logit: a register could not be chosen by a number.
  __device__ float of_logit(float x, bool softmax) const {
    return softmax ? expf(x - largest) / divisor : sigmoid(x);
  }

  __device__ float sum() const {
    float mine = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) mine += of[i];
    return warp_sum(mine);
  }
};

// Sets the keys of all but the best groups to -inf. `keys` [experts] is the warp's shared memory.
// Loops with a division or a reduction in every round are not unrolled.
template <int kGroupsPerLane>
__device__ void close_groups(const RouteProblem& p, float* keys, int lane) {
  const int groups = static_cast<int>(p.groups), size = static_cast<int>(p.experts) / groups;
  WarpKeys<kGroupsPerLane> sums;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kGroupsPerLane; ++i) {
    const int group = i * 32 + lane;
    sums.set(i, 0);
    if (group >= groups) continue;
    float first = -INFINITY, second = -INFINITY;
#pragma unroll 1
    for (int j = 0; j < size; ++j) {
      // Lanes begin at different places: they meet in no bank where sizes are a power of two.
      const float key = keys[group * size + (j + lane) % size];
      second = fmaxf(second, fminf(first, key));
      first = fmaxf(first, key);
    }
    sums.set(i, ordered(first + second));
  }
  uint32_t open = 0;  // bit i: group i * 32 + lane
#pragma unroll 1
  for (int n = 0; n < p.open_groups; ++n) {
    const int group = sums.take();
    if (group % 32 == lane) open |= 1u << group / 32;
  }
#pragma unroll 1  // a lane closes groups whose keys it has read itself
  for (int i = 0; i < kGroupsPerLane; ++i) {
    const int group = i * 32 + lane;
    if (group >= groups || open >> i & 1) continue;
#pragma unroll 1
    for (int j = 0; j < size; ++j) keys[group * size + (j + lane) % size] = -INFINITY;
  }
  __syncwarp();
}

__device__ int64_t replay_id(const RouteSm80Problem& p, int64_t token, int slot) {
  const int64_t i = token * p.replay_stride + slot;
  switch (p.replay_dtype) {
    case DType::u8:
      return static_cast<const uint8_t*>(p.replay_ids)[i];
    case DType::i16:
      return static_cast<const int16_t*>(p.replay_ids)[i];
    case DType::i32:
      return static_cast<const int32_t*>(p.replay_ids)[i];
    default:
      return static_cast<const int64_t*>(p.replay_ids)[i];
  }
}

template <int kPerLane, bool kGroups>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    route(const RouteSm80Problem problem) {
  const RouteProblem& p = problem.route;
  extern __shared__ float shared_keys[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t token = int64_t{blockIdx.x} * kWarps + warp;
  if (token >= p.tokens) return;
  const int experts = static_cast<int>(p.experts), slots = static_cast<int>(p.top_k);
  const float* logits = p.logits + token * p.logits_stride;
  const Scores<kPerLane> scores(p, logits, lane);
  const float total = problem.scales ? scores.sum() : 0.f;  // now: the scores are not kept

  WarpKeys<kPerLane> keys;
  float* in_shared = shared_keys + warp * experts;
  bool number = true;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = i * 32 + lane;
    float key = scores.of[i];
    if (p.bias && e < experts) key += p.bias[e];
    number &= key == key;  // beyond the last expert it is 0
    if constexpr (!kGroups)
      keys.set(i, e < experts ? ordered(key) : 0);
    else if (e < experts)
      in_shared[e] = key;
  }
  if constexpr (kGroups) {
    close_groups<kPerLane / 2>(p, in_shared, lane);  // a group has two experts or more
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = i * 32 + lane;
      keys.set(i, e < experts ? ordered(in_shared[e]) : 0);
    }
  }

  // Lane l keeps slots l, l + 32, ...: the latest in a register, those before in the output.
  int32_t* ids = p.ids + token * slots;
  float* weights = p.weights + token * slots;
  const float poison = __all_sync(~0u, number) ? 0.f : NAN;
  const bool softmax = p.rule.scoring == Scoring::softmax;
  float score = 0, sum = 0;
  for (int slot = 0; slot < slots; ++slot) {
    const int64_t id = !kGroups && p.replay ? replay_id(problem, token, slot) : keys.take();
    const bool known = kGroups || (id >= 0 && id < experts);
    const float s = known ? scores.of_logit(logits[id], softmax) + poison : NAN;
    sum += s;
    if (slot % 32 != lane) continue;
    if (slot >= 32) weights[slot - 32] = score;
    score = s;
    ids[slot] = static_cast<int32_t>(id);
    if (problem.counts && known) atomicAdd(problem.counts + id, 1ull);
  }
  const float divisor = p.rule.normalize ? sum + 1e-20f : 1.f;
#pragma unroll 1  // one round, or a few
  for (int slot = lane; slot < slots; slot += 32) {
    const float s = slot + 32 < slots ? weights[slot] : score;
    weights[slot] = s / divisor * p.rule.scaling;
  }
  if (problem.scales && lane == 0)
    problem.scales[token] = make_float2(scores.largest, 1.f / (total + 1e-20f) / scores.divisor);
}

// The mean over tokens of score / sum of the token's scores: the tokens of an expert in
// kStatsStrands sums, which are then added in order.
__global__ void __launch_bounds__(kStatsExperts* kStatsStrands)
    route_stats(const RouteSm80Problem problem) {
  const RouteProblem& p = problem.route;
  __shared__ float sums[kStatsStrands][kStatsExperts];
  const int x = threadIdx.x % kStatsExperts, strand = threadIdx.x / kStatsExperts;
  const int64_t e = int64_t{blockIdx.x} * kStatsExperts + x;
  const bool softmax = p.rule.scoring == Scoring::softmax;
  float sum = 0;
  if (e < p.experts)
    for (int64_t t = strand; t < p.tokens; t += kStatsStrands) {
      const float logit = p.logits[t * p.logits_stride + e];
      const float2 scale = problem.scales[t];
      sum += (softmax ? expf(logit - scale.x) : sigmoid(logit)) * scale.y;
    }
  sums[strand][x] = sum;
  __syncthreads();
  if (strand > 0 || e >= p.experts) return;
  for (int i = 1; i < kStatsStrands; ++i) sum += sums[i][x];
  problem.mean_score[e] = sum / static_cast<float>(max(p.tokens, int64_t{1}));
}

template <int kPerLane>
void launch(const RouteSm80Problem& problem, cudaStream_t stream) {
  const RouteProblem& p = problem.route;
  const auto blocks = static_cast<unsigned>((p.tokens + kWarps - 1) / kWarps);
  if (p.open_groups < p.groups && !p.replay)
    route<kPerLane, true>
        <<<blocks, kThreads, kWarps * p.experts * sizeof(float), stream>>>(problem);
  else
    route<kPerLane, false><<<blocks, kThreads, 0, stream>>>(problem);
}

}  // namespace

void route_sm80(const RouteSm80Problem& problem, cudaStream_t stream) {
  const RouteProblem& p = problem.route;
  if (problem.counts)
    cudaMemsetAsync(problem.counts, 0, static_cast<size_t>(p.experts) * sizeof(*problem.counts),
                    stream);
  if (p.tokens > 0) {
    if (p.experts <= 64)
      launch<2>(problem, stream);
    else if (p.experts <= 256)
      launch<8>(problem, stream);
    else
      launch<kRouteMaxExperts / 32>(problem, stream);
  }
  if (problem.mean_score) {
    const auto blocks = static_cast<unsigned>((p.experts + kStatsExperts - 1) / kStatsExperts);
    route_stats<<<blocks, kStatsExperts * kStatsStrands, 0, stream>>>(problem);
  }
}

}  // namespace mn
