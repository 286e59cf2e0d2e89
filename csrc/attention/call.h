// From tensors to a run of the kernels: what the bindings of every kind of call share.
#pragma once

#include <optional>
#include <vector>

#include "attention/plan.h"
#include "attention/problem.h"
#include "attention/validate.h"

namespace mn {

// Integers of an int32 or int64 tensor [count].
std::vector<int64_t> read_integers(const Check& check, const Tensor& t, const char* argument,
                                   int64_t count, const char* symbols);
// The same for [D + 1] edges that rise from 0 to `total`.
std::vector<int64_t> read_edges(const Check& check, const Tensor& t, const char* argument,
                                int64_t total);

// What a cache's storage of this dtype holds: f32, bf16, i8 or e4m3.
KvFormat kv_format(DType dtype);

// One call: q [.., Hq, Dqk], k [.., Hkv, Dqk], v [.., Hkv, Dv] with one leading dimension (packed
// tokens) or two (rows and tokens). Keys and values are packed as `format`, by default as they are.
// The constructor checks everything but the leading dimensions of k and v. Owns what its problem
// points to.
class AttentionCall {
 public:
  AttentionCall(const Check& check, const AttentionTensors& tensors,
                const AttentionOptions& options, std::optional<KvFormat> format = std::nullopt);

  // The queries [token, token + tokens) of a row (0 for packed calls), standing at first_position
  // and after, over the positions [0, keys). The reference is valid until the next one.
  AttentionSequence& add_sequence(int64_t row, int64_t token, int64_t tokens,
                                  int64_t first_position, int64_t keys);
  // Keys and values of the tokens [token, token + tokens) of a row; with an index, of these tokens
  // counted from `token` on. They are packed into blocks of a buffer made by run().
  KvPackTask& add_task(int64_t row, int64_t token, int64_t tokens, int64_t first_position);

  // Blocks of the buffer for the last sequence's `packs` last tasks, each kv_heads * blocks. They
  // become the sequence's keys or, if it has a tail group, its tails.
  void give_blocks(int64_t packs, int64_t blocks);

  void run();

  AttentionProblem problem{};

 private:
  KvFormat format_;
  AttentionTensors tensors_;
  std::vector<float> sink_;
  std::vector<AttentionSequence> sequences_;
  std::vector<KvPackTask> tasks_;
  std::vector<int64_t> sequence_block_, task_block_;
  int64_t buffer_blocks_ = 0;
};

}  // namespace mn
