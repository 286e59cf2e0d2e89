// Repetition, presence and frequency penalties: the row is copied and the tokens of its history are
// changed, each once.
#pragma once

#include "sampling/problem.h"
#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

struct Penalties {
  float repetition, presence, frequency;
  bool active() const { return repetition != 1.f || presence != 0.f || frequency != 0.f; }
};

// How often each token of a history was generated; open addressing.
struct HistoryTable {
  int32_t* seen;   // token + 1, 0 is an empty slot
  int32_t* times;  // of these, generated
  int64_t size;    // a power of two, over twice the history

  MN_INLINE void add(int32_t token, bool generated) {
    auto slot = static_cast<int64_t>(static_cast<uint32_t>(token) * 0x9E3779B1u) & (size - 1);
    while (seen[slot] != 0 && seen[slot] != token + 1) slot = (slot + 1) & (size - 1);
    seen[slot] = token + 1;
    times[slot] += generated;
  }
};

// Rounded to float32 once; finite stays finite.
MN_INLINE float penalised(float logit, const Penalties& p, int32_t times) {
  if (!(logit > -__builtin_inff())) return logit;
  const double repetition = p.repetition, presence = p.presence, frequency = p.frequency;
  double z = logit;
  z = z > 0 ? z / repetition : z * repetition;
  if (times > 0) z -= presence;
  z -= frequency * times;
  const double largest = __FLT_MAX__;
  return static_cast<float>(z > largest ? largest : z < -largest ? -largest : z);
}

template <class X>
void copy_row(const X* x, int64_t n, float* row) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) f32x16::load(x + i).store(row + i);
  if (i < n)
    f32x16::load_n(x + i, static_cast<int>(n - i)).store_n(row + i, static_cast<int>(n - i));
}

MN_INLINE void penalise_row(const int32_t* history, int64_t length, int64_t prompt,
                            const Penalties& penalties, HistoryTable table, float* row) {
  std::memset(table.seen, 0, static_cast<size_t>(table.size) * 4);
  std::memset(table.times, 0, static_cast<size_t>(table.size) * 4);
  for (int64_t h = 0; h < length; ++h)
    if (history[h] >= 0) table.add(history[h], h >= prompt);
  for (int64_t slot = 0; slot < table.size; ++slot) {
    if (table.seen[slot] == 0) continue;
    float& z = row[table.seen[slot] - 1];
    z = penalised(z, penalties, table.times[slot]);
  }
}

}  // namespace
}  // namespace mn::MN_ISA
