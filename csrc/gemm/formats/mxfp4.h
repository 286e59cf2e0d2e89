// e2m1 codes, sign and a magnitude of 0, 0.5, 1, 1.5, 2, 3, 4 or 6, with a power of two per 32.
#pragma once

#include "gemm/formats/int4.h"

namespace mn::MN_ISA {
namespace {

struct Mxfp4Table {
  static constexpr bf16 kValues[16] = {0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040,
                                       0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80, 0xbfc0,
                                       0xc000, 0xc040, 0xc080, 0xc0c0};
};

struct Mxfp4Codec : NibbleDecoder<Mxfp4Table> {
  static constexpr Coding kCoding = coding_of(Format::mxfp4);
  static MN_INLINE f32x16 scale(const uint8_t* header, int half) {
    return load_power(header + 16 * half);
  }
};

}  // namespace
}  // namespace mn::MN_ISA
