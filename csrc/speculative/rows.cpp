#include "speculative/rows.h"

#include <algorithm>
#include <cstring>

namespace mn {

void HiddenRing::append(const void* states, int64_t count, int64_t position) {
  if (states_.empty()) states_.resize(static_cast<size_t>(capacity_ * row_bytes_));
  if (position != end_) first_ = position;
  for (int64_t i = std::max<int64_t>(count - capacity_, 0); i < count; ++i)
    std::memcpy(states_.data() + slot(position + i),
                static_cast<const char*>(states) + i * row_bytes_, static_cast<size_t>(row_bytes_));
  end_ = position + count;
  first_ = std::max(first_, end_ - capacity_);
}

std::pair<std::vector<int64_t>, int64_t> look_up(const std::vector<int32_t>& tokens, int64_t length,
                                                 int64_t drafted) {
  constexpr int64_t kLongest = kLongestMatch, kShortest = 2;
  const auto count = static_cast<int64_t>(tokens.size());
  const int32_t* t = tokens.data();
  const int64_t known = count - drafted;
  int64_t matched = kShortest - 1, found = 0;
  for (int64_t end = known - 1; end >= kShortest && matched < kLongest; --end) {
    if (t[end - 1] != t[count - 1]) continue;
    int64_t size = 1;
    while (size < std::min(kLongest, end) && t[end - 1 - size] == t[count - 1 - size]) ++size;
    if (size <= matched) continue;
    matched = size;
    found = end;
  }
  if (found == 0) return {{}, 0};
  return {{t + found, t + std::min(found + length, known)}, matched};
}

}  // namespace mn
