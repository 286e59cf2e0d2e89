// Products with mxfp4 weights, compiled once per ISA level.
#include "gemm/formats/mxfp4.h"
#include "gemm/coded_multiply.h"

namespace mn::MN_ISA {

extern const CodedKernels coded_mxfp4 = kCodedKernels<Mxfp4Codec>;

}  // namespace mn::MN_ISA
