// Codes and scales between their own order, row by row, and a packed weight.
#pragma once

#include "gemm/packed.h"

namespace mn {

// One code per byte: codes [rows, inputs], scales and mins [rows, segments]. Row i of expert e is
// at e * outputs + i; where `index` is given the rows are those of one matrix, in its order.
struct CodesProblem {
  PackedLayout layout;
  char* packed;
  uint8_t* codes;
  char* scales;
  char* mins;  // null where the format has none
  const int64_t* index;
  int64_t rows;
};

int64_t scale_bytes(Format format);

void pack_codes(const CodesProblem& p);    // ignores the index
void unpack_codes(const CodesProblem& p);  // of `rows` rows

}  // namespace mn
