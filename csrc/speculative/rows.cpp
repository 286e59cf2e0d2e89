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

void TextRecord::draw(const std::vector<float>& logprobs) {
  constexpr double kNewest = 0.1;
  for (const float logprob : logprobs) surprise -= kNewest * (surprise + logprob);
}

void TextRecord::note(int64_t matched, const std::vector<int64_t>& copied, const int64_t* drawn,
                      int64_t count) {
  constexpr double kNewest = 0.05;
  constexpr int64_t kPrior = 3;  // rounds that the first guess counts for
  const auto both = std::min(static_cast<int64_t>(copied.size()), count);
  auto& [first, after, firsts, afters] = shares[static_cast<size_t>(level())];
  for (int64_t i = 0; i < both; ++i) {
    const bool right = copied[static_cast<size_t>(i)] == drawn[i];
    const auto size = static_cast<size_t>(matched);
    double& share = (i == 0 ? first : after)[size];
    const int64_t seen = (i == 0 ? firsts : afters)[size]++;
    share += std::max(kNewest, 1 / static_cast<double>(seen + kPrior)) * (right - share);
    if (!right) return;
  }
}

std::vector<int64_t> TextRecord::lengths(double value, double node, double plain,
                                         double best) const {
  const CopyShares& text = now();
  const auto &first = text.first, &after = text.after;
  std::vector<int64_t> lengths(first.size(), 0);
  for (size_t size = 2; size < first.size(); ++size) {
    const auto [nodes, tokens] = worthwhile(first[size], after[size], value, node);
    if (plain + tokens * value - static_cast<double>(nodes) * node > best) lengths[size] = nodes;
  }
  return lengths;
}

std::pair<int64_t, double> worthwhile(double first, double after, double value, double node) {
  constexpr double kCertain = 0.98;  // no token counts as likelier
  constexpr int64_t kMost = 32;
  after = std::min(after, kCertain);
  int64_t nodes = 0;
  double tokens = 0;
  for (double likely = first; nodes < kMost && likely * value > node; likely *= after, ++nodes)
    tokens += likely;
  return {nodes, tokens};
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
