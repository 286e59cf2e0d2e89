// Lines that will be needed soon, asked for a few at a time between register tiles: long calls read
// queries from memory and write outputs to it, and a tile would wait for each of its rows.
#pragma once

#include "attention/tile.h"

namespace mn::MN_ISA {
namespace {

class Ahead {
 public:
  void add(const void* row, int64_t bytes) {
    if (count_ < kMost) rows_[count_++] = {static_cast<const char*>(row), bytes};
  }

  MN_INLINE void issue() {
    for (int n = 0; n < kLinesAtOnce && next_ < count_; ++n) {
      prefetch(rows_[next_].p + at_);
      at_ += 64;
      if (at_ >= rows_[next_].bytes) {
        ++next_;
        at_ = 0;
      }
    }
  }

 private:
  static constexpr int kMost = 2 * kTileRows, kLinesAtOnce = 12;
  struct Row {
    const char* p;
    int64_t bytes;
  };
  Row rows_[kMost];
  int count_ = 0, next_ = 0;
  int64_t at_ = 0;
};

}  // namespace
}  // namespace mn::MN_ISA
