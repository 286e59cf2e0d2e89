// Packing of keys and values into the layout of layout.h; kernel sources of one level share it.
#pragma once

#include "attention/problem.h"
#include "simd/codes.h"

namespace mn::MN_ISA {

// The last argument says what is stored. Functions and no templates: those would be weak symbols.
//
// Packs what block `block` (absolute) holds of a task, for one kv head.
void pack_block(const KvPackProblem&, const KvPackTask&, int64_t kv_head, int64_t block, float);
void pack_block(const KvPackProblem&, const KvPackTask&, int64_t kv_head, int64_t block, bf16);
void pack_block(const KvPackProblem&, const KvPackTask&, int64_t kv_head, int64_t block, int8_code);
void pack_block(const KvPackProblem&, const KvPackTask&, int64_t kv_head, int64_t block, e4m3_code);

void pack(const KvPackProblem*, int64_t count, float);
void pack(const KvPackProblem*, int64_t count, bf16);
void pack(const KvPackProblem*, int64_t count, int8_code);
void pack(const KvPackProblem*, int64_t count, e4m3_code);

}  // namespace mn::MN_ISA
