#include "placement/search/leaders.h"

#include <algorithm>
#include <utility>

namespace conclave {
namespace {

bool SameGrid(const PricedPlan& a, const PricedPlan& b) {
  const ParallelSpec& x = a.candidate.spec;
  const ParallelSpec& y = b.candidate.spec;
  return x.tp == y.tp && x.dp == y.dp && x.pp == y.pp;
}

}  // namespace

void Leaders::Offer(PricedPlan plan) {
  const auto same = std::find_if(plans_.begin(), plans_.end(),
                                 [&](const PricedPlan& other) { return SameGrid(plan, other); });
  if (same != plans_.end()) {
    if (!pricer_.Better(plan, *same)) return;
    plans_.erase(same);
  } else if (static_cast<int>(plans_.size()) == count_) {
    if (!pricer_.Better(plan, plans_.back())) return;
    plans_.pop_back();
  }
  const auto at = std::find_if(plans_.begin(), plans_.end(), [&](const PricedPlan& other) {
    return pricer_.Better(plan, other);
  });
  plans_.insert(at, std::move(plan));
}

}  // namespace conclave
