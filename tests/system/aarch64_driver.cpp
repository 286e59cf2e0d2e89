// Reads tokens, experts, top_k (int64) and logits [T, E] from standard input, routes them with the
// kernels of a build, writes ids [T, K] and weights [T, K]; then the RMS norm of the logits.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "norm_rope/problem.h"
#include "routing/problem.h"

int main() {
  int64_t size[3];
  if (std::fread(size, sizeof(size), 1, stdin) != 1) return 1;
  const auto [tokens, experts, top_k] = size;
  const auto n = static_cast<size_t>(tokens * experts), k = static_cast<size_t>(tokens * top_k);
  std::vector<float> logits(n), weights(k), ones(static_cast<size_t>(experts), 1.f), normed(n);
  std::vector<int32_t> ids(k);
  if (std::fread(logits.data(), 4, n, stdin) != n) return 1;

  const mn::RouteProblem route{.tokens = tokens,
                               .experts = experts,
                               .top_k = top_k,
                               .groups = 1,
                               .open_groups = 1,
                               .rule = {mn::Scoring::sigmoid, true, 1.f},
                               .logits = logits.data(),
                               .logits_stride = experts,
                               .bias = nullptr,
                               .replay = false,
                               .ids = ids.data(),
                               .weights = weights.data(),
                               .job_shares = nullptr,
                               .job_counts = nullptr};
  if (!mn::routing_kernels_for_isa().route(route)) return 1;
  const mn::RmsNormProblem norm{.rows = tokens,
                                .dim = experts,
                                .x_stride = experts,
                                .eps = 1e-5f,
                                .x = logits.data(),
                                .weight = ones.data(),
                                .y = normed.data()};
  mn::norm_rope_kernels_for_isa().rms_norm_f32(norm);

  std::fwrite(ids.data(), 4, k, stdout);
  std::fwrite(weights.data(), 4, k, stdout);
  std::fwrite(normed.data(), 4, n, stdout);
}
