// Leaders: the best plans met so far, one for each grid, as many as are kept. A value; any thread.
#pragma once

#include <vector>

#include "placement/search/pricing.h"

namespace conclave {

class Leaders {
 public:
  Leaders(const Pricer& pricer, int count) : pricer_(pricer), count_(count) {}

  // Takes `plan` if it is among the best `count`, in place of a worse one of its grid (tp, dp, pp).
  void Offer(PricedPlan plan);
  bool full() const { return static_cast<int>(plans_.size()) == count_; }
  // Best first, each of another grid.
  const std::vector<PricedPlan>& plans() const { return plans_; }

 private:
  const Pricer& pricer_;
  int count_;
  std::vector<PricedPlan> plans_;
};

}  // namespace conclave
