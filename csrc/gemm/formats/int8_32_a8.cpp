// Products of int8_32 weights and quantised rows, compiled once per ISA level.
#include "gemm/coded_multiply.h"
#include "gemm/formats/int8.h"

namespace mn::MN_ISA {

extern const CodedKernels coded_int8_32_a8 = kQuantisedKernels<Int8Codec<Format::int8_32>>;

}  // namespace mn::MN_ISA
