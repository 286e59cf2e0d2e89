// The plain sampler: a block per row.
//
//   largest   the largest logit and its lowest id
//   sums      weights exp((x - largest) / T), a warp per 1024 ids, in float64
//   draw      the first id, in ascending order, whose cumulative weight exceeds coin * total:
//             first its chunk, then, by one warp, its lane's 32 ids, then the id
#include <climits>

#include "runtime/cuda/pack.cuh"
#include "sampling/kernels_cuda.h"
#include "sampling/philox.h"

namespace mn {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kLaneIds = kSampleChunk / 32;

struct Largest {
  float value;
  int id;
  bool bad;  // NaN or +inf was seen
};

// A logit and its id as one number, the larger the better: a larger logit, or a lower id of equal
// ones. Logits are ordered as their bits are, once those of negative ones are turned around.
__device__ uint64_t key_of(float logit, int id) {
  const int bits = __float_as_int(logit + 0.f);  // -0 is 0
  const auto rank = static_cast<unsigned>(bits ^ (bits >> 31 | INT_MIN));
  return uint64_t{rank} << 32 | ~static_cast<unsigned>(id);
}
__device__ Largest largest_of_key(uint64_t key, bool bad) {
  const auto rank = static_cast<int>(key >> 32);
  return {__int_as_float(rank ^ (~rank >> 31 | INT_MIN)), static_cast<int>(~key), bad};
}

template <class T>
__device__ Largest largest_of(const T* x, int vocab) {
  __shared__ uint64_t keys[kWarps];
  uint64_t best = 0;
  bool bad = false;
  for (int id = static_cast<int>(threadIdx.x); id < vocab; id += kThreads) {
    const float value = widen(x[id]);
    best = max(best, key_of(value, id));
    bad |= !(value < INFINITY);
  }
  for (int offset = 16; offset > 0; offset /= 2)
    best = max(best, __shfl_xor_sync(~0u, best, offset));
  if (threadIdx.x % 32 == 0) keys[threadIdx.x / 32] = best;
  bad = __syncthreads_or(bad) != 0;
  for (int w = 0; w < kWarps; ++w) best = max(best, keys[w]);
  return largest_of_key(best, bad);
}

__device__ float inverse_temperature(float t) { return fminf(1.f / t, 3.402823466e38f); }

struct Row {
  float largest, scale;
  __device__ double weight(float x) const {
    return static_cast<double>(expf((x - largest) * scale));
  }
};

template <class T>
__device__ void sum_chunks(const T* x, int vocab, const Row& row, double* sums) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  for (int first = warp * kSampleChunk; first < vocab; first += kWarps * kSampleChunk) {
    double sum = 0;
    for (int i = 0; i < kLaneIds; ++i) {
      const int id = first + i * 32 + lane;
      if (id < vocab) sum += row.weight(widen(x[id]));
    }
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0) sums[first / kSampleChunk] = sum;
  }
}

// Past weights, to the first whose cumulative weight exceeds the target; where roundings leave the
// target out of reach, to the last that is a weight at all.
struct Walk {
  double target, before, upto;
  int at = 0;
  __device__ Walk(double target, double below) : target(target), before(below), upto(below) {}
  __device__ void pass(int i, double weight) {
    if (!(weight > 0 && upto <= target)) return;
    at = i;
    before = upto;
    upto += weight;
  }
};

// The drawn id of a chunk, before which `below` lies; all lanes of a warp call it and get it.
template <class T>
__device__ int draw_from_chunk(const T* x, int first, int vocab, const Row& row, double below,
                               double target) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int begin = first + lane * kLaneIds, end = min(begin + kLaneIds, vocab);
  double own = 0;
#pragma unroll 1
  for (int id = begin; id < end; ++id) own += row.weight(widen(x[id]));
  Walk lanes(target, below);
#pragma unroll 1
  for (int i = 0; i < 32; ++i) lanes.pass(i, __shfl_sync(~0u, own, i));
  Walk ids(target, lanes.before);
#pragma unroll 1
  for (int id = begin; id < end; ++id) ids.pass(id, row.weight(widen(x[id])));
  return __shfl_sync(~0u, ids.at, lanes.at);
}

template <class T>
__global__ void __launch_bounds__(kThreads) sample_kernel(const SampleProblem p) {
  extern __shared__ double sums[];
  const int64_t b = blockIdx.x;
  const int vocab = static_cast<int>(p.vocab);
  const auto* x = static_cast<const T*>(p.logits) + b * p.logits_stride;
  const Largest largest = largest_of(x, vocab);
  if (largest.bad || largest.value == -INFINITY) {
    if (threadIdx.x == 0) {
      p.ids[b] = -1;
      p.logprobs[b] = NAN;
    }
    return;
  }
  const float temperature = p.temperature ? p.temperature[b] : 1.f;
  const Row row{largest.value, temperature == 0 ? 1.f : inverse_temperature(temperature)};
  sum_chunks(x, vocab, row, sums);
  __syncthreads();
  if (threadIdx.x >= 32) return;

  // Every lane walks the same sums.
  const int chunks = (vocab + kSampleChunk - 1) / kSampleChunk;
  double total = 0;
#pragma unroll 1
  for (int c = 0; c < chunks; ++c) total += sums[c];
  int id = largest.id;
  if (temperature != 0) {
    const double target = philox_uniform(p.seed[b], p.position[b]) * total;
    Walk walk(target, 0);
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) walk.pass(c, sums[c]);
    id = draw_from_chunk(x, walk.at * kSampleChunk, vocab, row, walk.before, target);
  }
  if (threadIdx.x == 0) {
    p.ids[b] = id;
    p.logprobs[b] = static_cast<float>(
        static_cast<double>((widen(x[id]) - row.largest)) * row.scale - log(total));
  }
}

template <class T>
void launch(const SampleProblem& p, cudaStream_t stream) {
  if (p.rows == 0) return;
  const int64_t chunks = (p.vocab + kSampleChunk - 1) / kSampleChunk;
  sample_kernel<T><<<static_cast<unsigned>(p.rows), kThreads,
                     static_cast<size_t>(chunks) * sizeof(double), stream>>>(p);
}

}  // namespace

void sample_f32_sm80(const SampleProblem& p, cudaStream_t stream) { launch<float>(p, stream); }
void sample_bf16_sm80(const SampleProblem& p, cudaStream_t stream) {
  launch<__nv_bfloat16>(p, stream);
}

}  // namespace mn
