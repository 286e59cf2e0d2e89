// The largest of keys that a warp holds, with exact ties: one after the other.
#pragma once

#include <cstdint>

namespace mn {

// Ascends with the number; NaN lies below all, and what is not there is 0.
__device__ inline uint32_t ordered(float key) {
  const uint32_t bits = __float_as_uint(key);
  if (key != key) return 1;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Lane l holds the keys of l, l + 32, l + 64, ...
template <int kPerLane>
class WarpKeys {
 public:
  // 0 where there is no key.
  __device__ void set(int i, uint32_t key) { keys_[i] = key; }

  // The id of the largest key, the lowest among equals, which is then no longer there.
  __device__ int take() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint32_t best = keys_[0];
    int at = 0;
#pragma unroll
    for (int i = 1; i < kPerLane; ++i)
      if (keys_[i] > best) best = keys_[i], at = i;
    const uint32_t top = __reduce_max_sync(~0u, best);
    const unsigned mine = best == top ? static_cast<unsigned>(at * 32 + lane) : ~0u;
    const int id = static_cast<int>(__reduce_min_sync(~0u, mine));
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (i * 32 + lane == id) keys_[i] = 0;
    return id;
  }

 private:
  uint32_t keys_[kPerLane];
};

}  // namespace mn
