// Packed weights: panels of 32 outputs, lane = output, zeros beyond N and K.
//   bf16  [experts][N/32][K/2][2][16 lanes][2]     one step = a pair of inputs
//   f32   [experts][N/32][K  ][32]                 one step = one input
// A step of a panel is 128 bytes in both, so a panel is one stream that a tile reads front to back.
// The other formats hold codes and scales: see coded.h.
#pragma once

#include <cstdint>

#include "gemm/coded.h"

namespace mn {

inline constexpr int kPlainFormats = 2;
inline constexpr int64_t kPanel = 32;       // outputs of a panel
inline constexpr int64_t kStepBytes = 128;  // of a panel of plain values

struct PackedLayout {
  Format format;
  int64_t experts;  // 1 for a plain matrix
  int64_t outputs, inputs;
  int64_t expert_panels;  // from one expert to the next; larger than panels() in a view of rows

  bool coded() const { return format > Format::f32; }
  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
  int64_t depth() const { return format == Format::bf16 ? 2 : 1; }  // inputs of a plain step
  int64_t steps() const { return (inputs + depth() - 1) / depth(); }
  int64_t panel_bytes() const {
    return coded() ? coding_of(format).panel_bytes(inputs) : steps() * kStepBytes;
  }
  int64_t expert_bytes() const { return expert_panels * panel_bytes(); }
  // From the first byte of the first panel to the end of the last.
  int64_t bytes() const {
    return experts == 0 ? 0 : (experts - 1) * expert_bytes() + panels() * panel_bytes();
  }
};

}  // namespace mn
