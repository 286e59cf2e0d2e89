// A block of packed rows times panels of codes: what the kernels of a coded format are handed.
#pragma once

#include "gemm/packed.h"
#include "runtime/isa.h"

namespace mn {

inline constexpr int kCodedRows = 12;  // of a register tile, at most

// Rows are packed tile by tile of `height` rows, each [granule][words][rows]: 16 words of two bf16
// or 32 words of one float, then, for a format with mins, their sum as a float; for rows of eight
// bits see quantised_rows.h.
struct CodedBlock {
  const void* rows;
  int count, height;
  const uint8_t* panels[4];
  int panel_count;
  int64_t inputs;
  float* c;  // [count][32 * panel_count], rows `ldc` floats apart
  int64_t ldc;
  int64_t next;  // bytes from the first panel to the one that is read in its place afterwards
};

struct CodedKernels {
  void (*bf16)(const CodedBlock&);  // for bf16 rows, or null where they are packed as float32
  void (*f32)(const CodedBlock&);
  void (*quantised)(const CodedBlock&);  // for rows of eight bits, alone where not null
};

MN_DECLARE_KERNELS(CodedKernels, coded_e4m3_128x128)
MN_DECLARE_KERNELS(CodedKernels, coded_int8_row)
MN_DECLARE_KERNELS(CodedKernels, coded_int8_32)
MN_DECLARE_KERNELS(CodedKernels, coded_int4_32)
MN_DECLARE_KERNELS(CodedKernels, coded_mxfp4)
MN_DECLARE_KERNELS(CodedKernels, coded_int8_row_a8)
MN_DECLARE_KERNELS(CodedKernels, coded_int8_32_a8)

}  // namespace mn
