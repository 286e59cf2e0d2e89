// Weights as codes of 8 or 4 bits with scales. A value is
//   e4m3_128x128  code * scale          code an e4m3 float, a float32 scale per output and 128
//   inputs int8_row      code * scale          code in [-128, 127], a float32 scale per output
//   int8_32       code * scale          likewise, a float16 scale per output and 32 inputs
//   int4_32       code * scale + min    code in [0, 15], float16 scale and min, likewise
//   mxfp4         code * 2^(scale-127)  code an e2m1 float, one byte of scale, likewise
// int8_row_a8 and int8_32_a8 are int8_row and int8_32 whose rows are quantised too: see
// quantised_rows.h.
//
// Inputs come in granules of 32, the last one filled up with zero codes. A segment is the granules
// that share scales; a panel is its segments one after the other, each the scales of the 32 outputs
// (then their mins) and the codes of its granules. So a panel is one stream.
//
// A product sums code * input over a segment, inputs in order, and adds scale times this sum to the
// total, segment after segment: the scale is applied once per segment and never rounds a code.
// int4_32 adds min times the sum of the segment's inputs before.
#pragma once

#include <cstdint>

namespace mn {

enum class Format : uint8_t {
  bf16,
  f32,
  e4m3_128x128,
  int8_row,
  int8_32,
  int4_32,
  mxfp4,
  int8_row_a8,
  int8_32_a8
};

inline constexpr int kFormats = 9;
inline constexpr const char* kFormatNames[kFormats] = {"bf16",     "f32",         "e4m3_128x128",
                                                       "int8_row", "int8_32",     "int4_32",
                                                       "mxfp4",    "int8_row_a8", "int8_32_a8"};
inline constexpr int64_t kGranule = 32;  // inputs

struct Coding {
  int64_t header_bytes;   // scales and mins of a segment
  int64_t granule_bytes;  // codes of 32 inputs of a panel
  int64_t granules;       // of a segment; 0: the whole row is one
  bool has_min;

  int64_t segment_bytes() const { return header_bytes + granules * granule_bytes; }
  int64_t segments(int64_t inputs) const {
    if (granules == 0) return inputs > 0 ? 1 : 0;
    return (inputs + granules * kGranule - 1) / (granules * kGranule);
  }
  int64_t panel_bytes(int64_t inputs) const {
    return segments(inputs) * header_bytes + (inputs + kGranule - 1) / kGranule * granule_bytes;
  }
};

// Not inline: a kernel object must hold no weak symbol.
static constexpr Coding coding_of(Format format) {
  switch (format) {
    case Format::e4m3_128x128:
      return {128, 1024, 4, false};
    case Format::int8_row:
    case Format::int8_row_a8:
      return {128, 1024, 0, false};
    case Format::int8_32:
    case Format::int8_32_a8:
      return {64, 1024, 1, false};
    case Format::int4_32:
      return {128, 512, 1, true};
    case Format::mxfp4:
      return {32, 512, 1, false};
    default:
      return {};
  }
}

static constexpr bool quantises_rows(Format format) {
  return format == Format::int8_row_a8 || format == Format::int8_32_a8;
}

// Where the code of input k (of a granule) and a lane lies: byte, and shift of a nibble.
struct CodePlace {
  int byte, shift;
};

static constexpr CodePlace code_place(Format format, int k, int lane) {
  const int half = lane / 16, l = lane % 16, step = k / 2, second = k % 2;
  switch (format) {
    case Format::e4m3_128x128:  // [step][half][lane][2]
      return {step * 64 + half * 32 + l * 2 + second, 0};
    case Format::int8_row:
    case Format::int8_32:
    case Format::int8_row_a8:
    case Format::int8_32_a8:  // [step][half][2][lane]
      return {step * 64 + half * 32 + second * 16 + l, 0};
    default:  // [4 steps][half][lane] words: nibble i of the first is step i, of the second its
              // twin
      return {step / 4 * 128 + half * 64 + l * 4 + second * 2 + step % 4 / 2, step % 2 * 4};
  }
}

}  // namespace mn
