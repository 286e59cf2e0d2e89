// Packing of keys and values into the layout of layout.h; kernel sources of one level share it.
#pragma once

#include "attention/problem.h"
#include "simd/vec.h"

namespace mn::MN_ISA {

// Packs what block `block` (absolute) holds of a task, for one kv head.
void pack_block_f32(const KvPackProblem&, const KvPackTask&, int64_t kv_head, int64_t block);
void pack_block_bf16(const KvPackProblem&, const KvPackTask&, int64_t kv_head, int64_t block);
void pack_f32(const KvPackProblem*, int64_t count);
void pack_bf16(const KvPackProblem*, int64_t count);

}  // namespace mn::MN_ISA
