#include "ptxsim/clock.h"

namespace ptxsim {

void Clock::join_foreign(const std::shared_ptr<const Foreign>& other) {
  if (!other || other == foreign) return;
  if (!foreign) {
    foreign = other;
    return;
  }
  auto merged = std::make_shared<Foreign>(*foreign);
  for (const auto& [cluster, theirs] : *other) {
    std::vector<Known>& ours = (*merged)[cluster];
    if (ours.size() < theirs.size()) ours.resize(theirs.size());
    for (size_t i = 0; i < theirs.size(); ++i) ours[i].join(theirs[i]);
  }
  foreign = std::move(merged);
}

}  // namespace ptxsim
