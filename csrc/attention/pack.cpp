// Keys and values into packed blocks: for a prefill's scratch, a step's tail, and the caches.
#include "attention/pack.h"

#include "attention/quantise.h"
#include "attention/tile.h"
#include "runtime/parallel.h"
#include "simd/transpose.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 15;

// Source rows of the lanes [first, end) of one group.
template <class T>
struct GroupRows {
  const T* row[16];
  int first, end;
};

// dst [words][16 lanes]; a word is a float or, in bf16, a pair. An odd last bf16 gets a zero.
template <class T>
void pack_keys(const GroupRows<T>& rows, const KvLayout& layout, T* dst) {
  constexpr int64_t kPerWord = 4 / sizeof(T);
  const int64_t words = layout.dim_qk / kPerWord;
  const bool full = rows.first == 0 && rows.end == 16;
  int64_t w = 0;
  for (; full && w + 16 <= words; w += 16) {
    u32x16 x[16];
    for (int i = 0; i < 16; ++i) x[i] = u32x16::load_n(rows.row[i] + w * kPerWord, 16);
    transpose(x);
    for (int i = 0; i < 16; ++i) x[i].store_n(dst + (w + i) * 16 * kPerWord, 16);
  }
  for (int lane = rows.first; lane < rows.end; ++lane) {
    const T* src = rows.row[lane];
    T* d = dst + lane * kPerWord;
    for (int64_t i = w; i < words; ++i) std::memcpy(d + i * 16 * kPerWord, src + i * kPerWord, 4);
    if (words * kPerWord < layout.dim_qk) {
      d[words * 16 * kPerWord] = src[layout.dim_qk - 1];
      d[words * 16 * kPerWord + 1] = 0;
    }
  }
}

// dst [16 keys][dims].
void pack_values(const GroupRows<float>& rows, const KvLayout& layout, float* dst) {
  for (int key = rows.first; key < rows.end; ++key) {
    float* d = dst + key * layout.padded_v;
    std::memcpy(d, rows.row[key], static_cast<size_t>(layout.dim_v) * sizeof(float));
    std::memset(d + layout.dim_v, 0,
                static_cast<size_t>(layout.padded_v - layout.dim_v) * sizeof(float));
  }
}

// dst [Dv/16 panels, 32 pairs apart][8 pairs][16 dims][2 keys].
void pack_values(const GroupRows<bf16>& rows, const KvLayout& layout, bf16* dst) {
  if (rows.first == 0 && rows.end == 16 && layout.dim_v == layout.padded_v) {
    for (int key = 0; key < 16; key += 2)
      for (int64_t i = 0; i < layout.dim_v; i += 16)
        interleave(rows.row[key] + i, rows.row[key + 1] + i,
                   dst + i / 16 * layout.value_panel + key * 16);
    return;
  }
  for (int key = rows.first; key < rows.end; ++key) {
    const bf16* src = rows.row[key];
    for (int64_t i = 0; i < layout.padded_v; ++i)
      dst[i / 16 * layout.value_panel + key / 2 * 32 + i % 16 * 2 + key % 2] =
          i < layout.dim_v ? src[i] : bf16{0};
  }
}

// dst [Dqk/2][2][16 keys].
template <class Code>
void pack_key_codes(const GroupRows<bf16>& rows, const KvLayout& layout, Code* dst, float* scales) {
  for (int lane = rows.first; lane < rows.end; ++lane) {
    const RowScale scale = row_scale<Code>(rows.row[lane], layout.dim_qk);
    scales[lane] = scale.stored;
    for (int64_t d = 0; d < layout.padded_qk; d += 16) {
      Code codes[16];
      const int64_t given = layout.dim_qk - d, kept = layout.padded_qk - d;
      quantise16(rows.row[lane] + d, static_cast<int>(given < 16 ? given : 16), scale, codes);
      for (int64_t i = 0; i < 16 && i < kept; ++i) dst[(d + i) * 16 + lane] = codes[i];
    }
  }
}

// dst [Dv/16 panels, 32 pairs apart][8 pairs][2 keys][16 dims].
template <class Code>
void pack_value_codes(const GroupRows<bf16>& rows, const KvLayout& layout, Code* dst,
                      float* scales) {
  for (int key = rows.first; key < rows.end; ++key) {
    const RowScale scale = row_scale<Code>(rows.row[key], layout.dim_v);
    scales[key] = scale.stored;
    for (int64_t d = 0; d < layout.padded_v; d += 16) {
      const int64_t given = layout.dim_v - d;
      quantise16(rows.row[key] + d, static_cast<int>(given < 16 ? given : 16), scale,
                 dst + d / 16 * layout.value_panel + key * 16);
    }
  }
}

// A group: parts of its block.
template <class K>
struct Group {
  K *keys, *values;
  float *key_scales = nullptr, *value_scales = nullptr;  // of storage types that have them

  Group(const KvLayout& layout, K* block_keys, K* block_values, int64_t g)
      : keys(block_keys + g * layout.key_group), values(block_values + g * layout.value_group) {
    if (!Stored<K>::kScaled) return;
    key_scales = reinterpret_cast<float*>(block_keys + layout.key_scales) + g * kGroupKeys;
    value_scales = reinterpret_cast<float*>(block_values + layout.value_scales) + g * kGroupKeys;
  }
};

// Calls f(to, from, bytes) for the pieces of a group, each of which lies together.
template <class K, class F>
void for_pieces(const KvLayout& layout, const Group<K>& to, const Group<K>& from, const F& f) {
  f(to.keys, from.keys, static_cast<size_t>(layout.key_group) * sizeof(K));
  const int64_t panels = sizeof(K) == 4 ? 1 : layout.padded_v / 16;
  for (int64_t i = 0; i < panels; ++i)
    f(to.values + i * layout.value_panel, from.values + i * layout.value_panel,
      static_cast<size_t>(layout.value_group) * sizeof(K));
  if (!Stored<K>::kScaled) return;
  f(to.key_scales, from.key_scales, kGroupKeys * sizeof(float));
  f(to.value_scales, from.value_scales, kGroupKeys * sizeof(float));
}

template <class K>
void zero_group(const KvLayout& layout, const Group<K>& to) {
  for_pieces(layout, to, to, [](void* p, void*, size_t bytes) { std::memset(p, 0, bytes); });
}

template <class K>
void copy_group(const KvLayout& layout, const Group<K>& from, const Group<K>& to) {
  for_pieces(layout, to, from, [](void* p, void* old, size_t n) { std::memcpy(p, old, n); });
}

template <class K>
void pack_one_block(const KvPackProblem& p, const KvPackTask& task, int64_t head, int64_t block) {
  using T = RowOf<K>;
  const KvLayout& layout = p.layout;
  const T* k = static_cast<const T*>(task.k) + head * p.k_head_stride;
  const T* v = static_cast<const T*>(task.v) + head * p.v_head_stride;
  const int64_t stored = task.ring_blocks ? block % task.ring_blocks : block - task.first_block;
  K* keys = static_cast<K*>(task.keys) + (head * task.head_blocks + stored) * layout.key_block;
  K* values =
      static_cast<K*>(task.values) + (head * task.head_blocks + stored) * layout.value_block;
  const int64_t begin = task.first_position, end = begin + task.tokens;
  for (int64_t g = 0; g < kBlockGroups; ++g) {
    const int64_t position = block * kBlockKeys + g * kGroupKeys;
    if (position + kGroupKeys <= begin || position >= end) continue;
    const Group<K> group(layout, keys, values, g);
    GroupRows<T> rows;
    rows.first = position < begin ? static_cast<int>(begin - position) : 0;
    rows.end = position + kGroupKeys > end ? static_cast<int>(end - position) : 16;
    for (int lane = rows.first; lane < rows.end; ++lane) {
      const int64_t i = position + lane - begin, row = task.index ? task.index[i] : i;
      rows.row[lane] = k + row * p.k_token_stride;
    }
    // Lanes that nobody has written must hold finite numbers: they meet weights of zero. A wrapped
    // ring's are older keys, which rows may still see.
    const bool wrapped = task.ring_blocks && block >= task.ring_blocks;
    if (rows.first == 0 && rows.end < 16 && !wrapped) zero_group(layout, group);
    if (rows.first > 0 && task.committed_keys) {
      const int64_t first_block = head * task.committed_head_blocks;
      K* const old_keys = static_cast<K*>(task.committed_keys) + first_block * layout.key_block;
      K* const old_values =
          static_cast<K*>(task.committed_values) + first_block * layout.value_block;
      copy_group(layout, Group<K>(layout, old_keys, old_values, g), group);
    }
    if constexpr (Stored<K>::kScaled)
      pack_key_codes(rows, layout, group.keys, group.key_scales);
    else
      pack_keys(rows, layout, group.keys);
    for (int lane = rows.first; lane < rows.end; ++lane) {
      const int64_t i = position + lane - begin, row = task.index ? task.index[i] : i;
      rows.row[lane] = v + row * p.v_token_stride;
    }
    if constexpr (Stored<K>::kScaled)
      pack_value_codes(rows, layout, group.values, group.value_scales);
    else
      pack_values(rows, layout, group.values);
  }
}

template <class K>
void pack_all(const KvPackProblem* problems, int64_t count) {
  // A block of a task of a problem is a job; shorter tasks and problems leave theirs empty.
  int64_t per_problem = 0, work = 0;
  for (int64_t n = 0; n < count; ++n) {
    const KvPackProblem& p = problems[n];
    const int64_t jobs = p.task_count * p.kv_heads * p.max_blocks;
    if (jobs > per_problem) per_problem = jobs;
    for (int64_t t = 0; t < p.task_count; ++t)
      work += p.tasks[t].tokens * p.kv_heads * (p.layout.dim_qk + p.layout.dim_v);
  }
  parallel_for(per_problem * count, work, kGrain, [&](int64_t job) {
    const KvPackProblem& p = problems[job / per_problem];
    const int64_t n = job % per_problem, block = n % p.max_blocks;
    const int64_t head = n / p.max_blocks % p.kv_heads, t = n / p.max_blocks / p.kv_heads;
    if (t >= p.task_count) return;
    const KvPackTask& task = p.tasks[t];
    const int64_t absolute = task.first_position / kBlockKeys + block;
    if (absolute * kBlockKeys < task.first_position + task.tokens)
      pack_one_block<K>(p, task, head, absolute);
  });
}

}  // namespace

void pack_block(const KvPackProblem& p, const KvPackTask& task, int64_t head, int64_t block,
                float) {
  pack_one_block<float>(p, task, head, block);
}
void pack_block(const KvPackProblem& p, const KvPackTask& task, int64_t head, int64_t block, bf16) {
  pack_one_block<bf16>(p, task, head, block);
}
void pack_block(const KvPackProblem& p, const KvPackTask& task, int64_t head, int64_t block,
                int8_code) {
  pack_one_block<int8_code>(p, task, head, block);
}
void pack_block(const KvPackProblem& p, const KvPackTask& task, int64_t head, int64_t block,
                e4m3_code) {
  pack_one_block<e4m3_code>(p, task, head, block);
}
void pack(const KvPackProblem* p, int64_t count, float) { pack_all<float>(p, count); }
void pack(const KvPackProblem* p, int64_t count, bf16) { pack_all<bf16>(p, count); }
void pack(const KvPackProblem* p, int64_t count, int8_code) { pack_all<int8_code>(p, count); }
void pack(const KvPackProblem* p, int64_t count, e4m3_code) { pack_all<e4m3_code>(p, count); }

}  // namespace mn::MN_ISA
