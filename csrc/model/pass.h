// The ops of one pass: each method is what a module of nn/ does with N packed tokens.
#pragma once

#include <map>
#include <vector>

#include "model/decoder.h"
#include "runtime/check.h"

namespace mn {

// A view of dense memory.
Tensor dense(void* data, DType dtype, std::initializer_list<int64_t> sizes);

// The tokens of a pass, packed. `x` goes through the layers in place.
struct PassTokens {
  int64_t count;
  void* x;                           // [N, D]
  std::optional<Tensor> cu_seqlens;  // [B + 1]; always given
  std::optional<Tensor> ancestors;   // int64 [N]
  std::vector<int64_t> positions;    // [N]
};

class Pass {
 public:
  // Takes the thread's workspace.
  Pass(const Decoder& decoder, PassTokens tokens, int64_t logit_rows);

  // x = W [norm(x), norm(hidden)]: the entrance of an MTP block.
  void join(const Join& j, const void* hidden);
  // `staged` receives the new keys, then the new values. Returns the router's ids [N, K], valid
  // until the next layer; null of a dense layer. With `ends`, ascending, only these tokens go on
  // once all have left keys and values, and x holds nothing else from then on.
  const int32_t* layer(const DecoderLayer& l, const CommitLayer& cache, const Tensor& lengths,
                       char* staged, const std::vector<int64_t>* ends = nullptr);
  // What `layer` leaves in `staged`, and no more.
  void keys_values(const DecoderLayer& l, char* staged);
  void final_norm();
  // Of the tokens `rows`, or of all where it is null; normed first unless an MTP block's are.
  void logits(const Weights& head, const std::vector<int64_t>* rows, void* out);

 private:
  void norm(const Norm& norm, const void* x, int64_t rows, void* y) const;
  void linear(const Weights& w, const void* x, int64_t rows, void* y, bool y_bf16) const;
  void add() const;  // x += branch
  const float* table(double theta, int64_t rotary_dim);
  void project(const AttentionWeights& a, char* staged);
  void attend(const AttentionWeights& a, const CommitLayer& cache, const Tensor& lengths,
              char* staged);
  void keep(const AttentionWeights& a, const std::vector<int64_t>& ends);
  void feed_forward(const DecoderLayer& l);
  void route(const Router& r);

  const Decoder& decoder_;
  const PassTokens tokens_;
  int64_t n_;
  const DType dtype_;
  char *normed_, *branch_, *qkv_, *q_, *attended_;
  float *router_logits_, *weights_;
  int32_t* ids_;
  std::map<std::pair<double, int64_t>, std::vector<float>> tables_;
};

}  // namespace mn
