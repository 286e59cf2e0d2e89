// Products with int4_32 weights, compiled once per ISA level.
#include "gemm/coded_multiply.h"
#include "gemm/formats/int4.h"

namespace mn::MN_ISA {

extern const CodedKernels coded_int4_32 = kCodedKernels<Int4Codec>;

}  // namespace mn::MN_ISA
