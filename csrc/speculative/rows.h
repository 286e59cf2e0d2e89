// What a round must know of the rows of a cache: their tokens, how these are drawn, and the hidden
// states that the MTP blocks have yet to see.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "speculative/draft.h"

namespace mn {

struct RowSampling {
  int64_t seed;
  float temperature;
  int32_t top_k;
  float top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  int32_t prompt_len;

  bool penalised() const {
    return repetition_penalty != 1.f || presence_penalty != 0.f || frequency_penalty != 0.f;
  }
};

// The last hidden states of one row, by position.
class HiddenRing {
 public:
  HiddenRing(int64_t row_bytes, int64_t capacity) : row_bytes_(row_bytes), capacity_(capacity) {}

  // Of `count` tokens from `position` on. What does not follow the last one starts anew.
  void append(const void* states, int64_t count, int64_t position);
  void clear() { first_ = end_ = 0; }
  int64_t first() const { return first_; }
  int64_t end() const { return end_; }
  const void* at(int64_t position) const { return states_.data() + slot(position); }

 private:
  std::size_t slot(int64_t position) const {
    return static_cast<std::size_t>(position % capacity_ * row_bytes_);
  }

  int64_t row_bytes_, capacity_, first_ = 0, end_ = 0;
  std::vector<char> states_;
};

struct SpeculativeRow {
  std::vector<int32_t> tokens;  // prompt and output; the cache holds all but the last
  RowSampling sampling{};
  HiddenRing hidden;
};

inline constexpr int64_t kLongestMatch = 8;

// How often copied tokens would have been right, by how many before them matched: the first one,
// and one whose predecessor was. Recent rounds weigh more.
struct CopyShares {
  std::array<double, kLongestMatch + 1> first{0, 0, .25, .3, .4, .5, .6, .65, .7};
  std::array<double, kLongestMatch + 1> after{0, 0, .7, .7, .7, .7, .7, .7, .7};
  std::array<int64_t, kLongestMatch + 1> firsts{}, afters{};  // how often each was seen
};

// What the last rounds say of the text: how hard it is for the model, in nats a token, and what
// copying brings in text of each of three degrees.
struct TextRecord {
  double surprise = 0;
  std::array<CopyShares, 3> shares;
  // Rounds without drafts since somebody was told of one, until how many nobody is, and the level
  // that was known then.
  int64_t idle = 0, due = 1, told = 0;

  int64_t level() const { return (surprise > 0.35) + (surprise > 1.2); }
  const CopyShares& now() const { return shares[static_cast<size_t>(level())]; }
  bool quiet() { return ++idle < due && level() == told; }
  void draw(const std::vector<float>& logprobs);
  void note(int64_t matched, const std::vector<int64_t>& copied, const int64_t* drawn,
            int64_t count);
  // How many tokens to copy by how many match, where a token is worth `value` seconds and a node
  // costs `node`; none where the round, which saves `plain` without them, saves less than `best`.
  std::vector<int64_t> lengths(double value, double node, double plain, double best) const;
};

// Nodes of a path that are likelier than their share of a token's time, and the tokens that they
// bring: the first is accepted with `first`, every other with `after` where the one above it was.
std::pair<int64_t, double> worthwhile(double first, double after, double value, double node);

// How many tokens to copy by how many before them matched, 0 to 8; `beside`: in addition to what
// the blocks draft for the row, else in its place.
struct CopyRule {
  std::array<int64_t, kLongestMatch + 1> lengths{};
  bool beside = false;
  // The same below the deepest path of the blocks' draft.
  std::array<int64_t, kLongestMatch + 1> extended{};
  std::shared_ptr<TextRecord> record{};  // told of every round, whether it copies or not
};

// Up to `length` tokens that followed the latest earlier occurrence of the last 8 tokens, or else
// of the last 7, and so on to 2; and how many matched. The last `drafted` tokens are not known yet,
// and nothing is copied from there.
std::pair<std::vector<int64_t>, int64_t> look_up(const std::vector<int32_t>& tokens, int64_t length,
                                                 int64_t drafted = 0);

}  // namespace mn
