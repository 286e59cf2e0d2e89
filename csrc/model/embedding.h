// Rows of a table of embeddings: plain [V, D], or the packed weight of a tied head.
#pragma once

#include "gemm/packed.h"
#include "runtime/check.h"

namespace mn {

struct Embedding {
  const void* table;
  bool packed;
  PackedLayout layout;  // of plain values; a plain table has its sizes only

  int64_t row_bytes() const { return layout.inputs * (layout.format == Format::bf16 ? 2 : 4); }
};

// int64 or int32 ids, all below the table's size, or the error of ops on `argument`.
std::vector<int64_t> read_ids(const Check& check, const Tensor& ids, const char* argument,
                              int64_t vocabulary);

// Writes dense rows [ids, D] in the table's dtype.
void embed(const Embedding& embedding, const std::vector<int64_t>& ids, void* out);

}  // namespace mn
