// Memory that will be needed soon, asked for while the multipliers work: keys and values of the
// next pass or job, queries of a later job, outputs of this one. A few lines with every step of a
// tile, at the pace that spreads them over the whole pass, so that memory delivers while the tile
// computes and not in turn with it.
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

class Ahead {
 public:
  // `steps`: about how many steps of register tiles come before the ranges are needed.
  void clear(int64_t steps) {
    range_count_ = next_range_ = 0;
    lines_ = 0;
    steps_ = steps;
    p_ = end_ = nullptr;
  }
  void add_range(const void* begin, int64_t bytes) {
    if (bytes <= 0) return;
    const char* p = static_cast<const char*>(begin);
    if (range_count_ && ranges_[range_count_ - 1].p + ranges_[range_count_ - 1].bytes == p)
      ranges_[range_count_ - 1].bytes += bytes;
    else if (range_count_ < kMostRanges)
      ranges_[range_count_++] = {p, bytes};
    else
      return;
    lines_ += bytes / kLine;
  }

  // A register tile of `steps` steps: start, then step() with each of them, then finish.
  class Tile {
   public:
    MN_INLINE Tile(Ahead& ahead, int64_t steps) : ahead_(ahead) {
      ahead.begin_tile(steps);
      p_ = ahead.p_;
      end_ = ahead.end_;
      pace_ = ahead.pace_;
    }
    MN_INLINE void step() {
      for (int i = 0; i < pace_ && p_ < end_; ++i, p_ += kLine) prefetch(p_);
    }
    MN_INLINE void finish() { ahead_.end_tile(p_); }

   private:
    Ahead& ahead_;
    const char *p_, *end_;
    int pace_;
  };

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int kMostRanges = 64;
  struct Range {
    const char* p;
    int64_t bytes;
  };

  MN_INLINE void begin_tile(int64_t steps) {
    if (p_ == end_ && next_range_ < range_count_) {
      p_ = ranges_[next_range_].p;
      end_ = p_ + ranges_[next_range_++].bytes;
    }
    pace_ = p_ == end_ ? 0
                       : static_cast<int>(steps_ > steps ? (lines_ + steps_ - 1) / steps_
                                                         : (lines_ + steps - 1) / steps);
    steps_ -= steps;
  }
  MN_INLINE void end_tile(const char* p) {
    lines_ -= (p - p_) / kLine;
    p_ = p < end_ ? p : end_;
  }

  Range ranges_[kMostRanges];
  int range_count_ = 0, next_range_ = 0, pace_ = 0;
  int64_t lines_ = 0, steps_ = 0;
  const char *p_ = nullptr, *end_ = nullptr;
};

}  // namespace
}  // namespace mn::MN_ISA
