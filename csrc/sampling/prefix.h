// Which candidates survive top-k, top-p and min-p. Each of the three keeps a prefix of the ranking
// "larger logit first, lower id first among equals", so the answer is a single ranking key, found
// by narrowing down one byte of the key at a time: linear time, and nothing is sorted.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

// Orders as (x descending, id ascending) when compared as a descending integer.
MN_INLINE uint64_t ranking_key(float x, uint32_t id) {
  const float canonical = x + 0.f;  // -0 is 0
  uint32_t bits;
  std::memcpy(&bits, &canonical, 4);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return uint64_t{bits} << 32 | ~id;
}

struct Narrowing {
  uint64_t* keys;  // room for all keys
  float* masses;   // ... and their masses
};

// The key in descending order at which the cumulative mass first reaches `limit`; the last key if
// it never does. Keys are distinct, n > 0; masses null counts every key as 1.
inline uint64_t key_reaching(const uint64_t* keys, const float* masses, int64_t n, double limit,
                             Narrowing open) {
  double reached = 0;
  for (int shift = 56;; shift -= 8) {
    double mass[256] = {};
    int64_t count[256] = {};
    for (int64_t i = 0; i < n; ++i) {
      const unsigned byte = keys[i] >> shift & 255;
      mass[byte] += masses ? static_cast<double>(masses[i]) : 1.0;
      ++count[byte];
    }
    unsigned byte = 256, lowest = 0;
    while (byte-- > 0) {
      if (!count[byte]) continue;
      lowest = byte;
      if (reached + mass[byte] >= limit) break;
      reached += mass[byte];
    }
    // Summed in another order the masses may fall short of the limit: the lowest key, then.
    if (byte > 255) limit = __builtin_inf();
    byte = lowest;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i)
      if ((keys[i] >> shift & 255) == byte) {
        if (masses) open.masses[kept] = masses[i];
        open.keys[kept++] = keys[i];
      }
    if (kept == 1 || shift == 0) return open.keys[0];
    keys = open.keys;
    masses = masses ? open.masses : nullptr;
    n = kept;
  }
}

}  // namespace
}  // namespace mn::MN_ISA
