// Philox4x32 with ten rounds (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1,
// 2, 3", SC 2011), and the one coin of a position in the stream of a seed.
#pragma once

#include <cstdint>

#ifdef __CUDACC__  // the CUDA sampler draws the same coins
#define MN_HOST_DEVICE __host__ __device__
#else
#define MN_HOST_DEVICE
#endif

namespace mn {
namespace {

struct PhiloxWords {
  uint32_t w[4];
};

MN_HOST_DEVICE inline PhiloxWords philox4x32_10(PhiloxWords counter, uint32_t key0, uint32_t key1) {
  auto [c0, c1, c2, c3] = counter.w;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c0 = n0;
    c1 = static_cast<uint32_t>(p1);
    c2 = n2;
    c3 = static_cast<uint32_t>(p0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// In [0, 1), 53 bits.
MN_HOST_DEVICE inline double philox_uniform(int64_t seed, int64_t position) {
  const auto s = static_cast<uint64_t>(seed), p = static_cast<uint64_t>(position);
  const PhiloxWords x =
      philox4x32_10({{static_cast<uint32_t>(p), static_cast<uint32_t>(p >> 32), 0, 0}},
                    static_cast<uint32_t>(s), static_cast<uint32_t>(s >> 32));
  const uint64_t bits = (uint64_t{x.w[1]} << 32 | x.w[0]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace
}  // namespace mn
