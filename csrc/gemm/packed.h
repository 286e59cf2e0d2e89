// Packed weights: panels of 32 outputs, lane = output, zeros beyond N and K.
//   bf16  [experts][N/32][K/2][2][16 lanes][2]     one step = a pair of inputs
//   f32   [experts][N/32][K  ][32]                 one step = one input
// A step of a panel is 128 bytes in both, so a panel is one stream that a tile reads front to back.
#pragma once

#include <cstdint>

namespace mn {

enum class Format : uint8_t { bf16, f32 };
inline constexpr int kFormats = 2;
inline constexpr int64_t kPanel = 32;       // outputs of a panel
inline constexpr int64_t kStepBytes = 128;  // of a panel

struct PackedLayout {
  Format format;
  int64_t experts;  // 1 for a plain matrix
  int64_t outputs, inputs;
  int64_t expert_panels;  // from one expert to the next; larger than panels() in a view of rows

  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
  int64_t depth() const { return format == Format::bf16 ? 2 : 1; }  // inputs of a step
  int64_t steps() const { return (inputs + depth() - 1) / depth(); }
  int64_t panel_bytes() const { return steps() * kStepBytes; }
  int64_t expert_bytes() const { return expert_panels * panel_bytes(); }
  // From the first byte of the first panel to the end of the last.
  int64_t bytes() const {
    return experts == 0 ? 0 : (experts - 1) * expert_bytes() + panels() * panel_bytes();
  }
};

}  // namespace mn
