#include <cmath>

#include "norm_rope/problem.h"

namespace mn {

float rope_frequency(double theta, int64_t rotary_dim, int64_t j) {
  // Rounded to float32 at each step, as in the training of such models.
  const float exponent = static_cast<float>(2 * j) / static_cast<float>(rotary_dim);
  return 1.f / static_cast<float>(std::pow(theta, exponent));
}

void rope_table(const int64_t* positions, int64_t n, double theta, int64_t rotary_dim,
                float* table) {
  const int64_t half = rotary_dim / 2;
  for (int64_t j = 0; j < half; ++j) {
    const float frequency = rope_frequency(theta, rotary_dim, j);
    for (int64_t i = 0; i < n; ++i) {
      // The product is float32 by definition; only then do cosine and sine see it exactly.
      const float angle = static_cast<float>(positions[i]) * frequency;
      table[i * rotary_dim + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
      table[i * rotary_dim + half + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

}  // namespace mn
