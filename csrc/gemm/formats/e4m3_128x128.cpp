// Products with e4m3_128x128 weights, compiled once per ISA level.
#include "gemm/coded_multiply.h"
#include "gemm/formats/e4m3.h"

namespace mn::MN_ISA {

extern const CodedKernels coded_e4m3_128x128 = kCodedKernels<E4m3Codec>;

}  // namespace mn::MN_ISA
