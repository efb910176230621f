// One layer's balancing problem and a placement of its experts under change: loads, owners and free
// slots, kept up to date by Add and Remove. All times are in units of the layer's ideal time (its
// load over the speed of all ranks), so 1 is the best that can be. Inside placement/balance; a
// state belongs to its caller and refers to a problem that outlives it; one thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/types/expert_map.h"
#include "placement/balance/expert_balance.h"

namespace conclave {

struct LayerProblem {
  std::vector<double> weight;         // [experts], their sum over the sum of speeds is 1
  std::vector<int> slots;             // [ranks], at most one for each expert
  std::vector<double> inverse_speed;  // [ranks]
  std::vector<int> node;              // [ranks], numbered densely from 0
  std::vector<int> node_ranks;        // [nodes]: ranks of each
  int copies_max = 1;                 // of one expert, 1 to the number of ranks with a slot
  int64_t slots_total = 0;
  double time_least = 1;  // no placement is faster; see LowerBound

  int experts() const { return static_cast<int>(weight.size()); }
  int ranks() const { return static_cast<int>(slots.size()); }
};

// The part that all layers share: everything but the weights. `ranks` are valid (see
// BalanceExperts).
LayerProblem MakeProblem(const std::vector<BalanceRank>& ranks, int experts, int copies_max);
// Sets the weights from tokens of each expert and the bound; no tokens at all count as even ones.
void SetTokens(const std::vector<double>& tokens, LayerProblem& problem);

// Copies of each expert when the largest share of a copy is to be least and `total` slots are used:
// one more copy for the expert with the largest share, until shares are below `share_least`. Its
// largest share is a lower bound on the time of any placement, at the speed of the fastest rank.
std::vector<int> SpreadCopies(const LayerProblem& problem, int64_t total, double share_least);

class LayerState {
 public:
  explicit LayerState(const LayerProblem& problem);

  const LayerProblem& problem() const { return *problem_; }
  // The rank does not hold the expert. Slots are the caller's to mind: the map of today may have
  // more than there are now.
  void Add(int expert, int rank);
  // As many Adds, in time linear in the copies.
  void AddAll(int expert, const std::vector<int>& ranks);
  // The rank holds the expert; an expert may be without owners for a while.
  void Remove(int expert, int rank);

  bool Holds(int expert, int rank) const {
    const size_t bit = static_cast<size_t>(expert) * problem_->slots.size() + rank;
    return (held_[bit >> 6] >> (bit & 63)) & 1;
  }
  const std::vector<int>& Owners(int expert) const { return owners_[expert]; }
  const std::vector<int>& ExpertsOf(int rank) const { return experts_[rank]; }
  int Copies(int expert) const { return static_cast<int>(owners_[expert].size()); }
  bool HasFreeSlot(int rank) const {
    return static_cast<int>(experts_[rank].size()) < problem_->slots[rank];
  }
  // Load of one copy.
  double Share(int expert) const { return share_[expert]; }
  double Load(int rank) const { return load_[rank]; }
  double Time(int rank) const { return load_[rank] * problem_->inverse_speed[rank]; }
  // Lowest of the slowest ranks.
  int Slowest() const;
  double Makespan() const { return Time(Slowest()); }
  // Every expert has an owner, or the process ends.
  LayerExperts ToMap() const;

 private:
  void Flip(int expert, int rank) {
    const size_t bit = static_cast<size_t>(expert) * problem_->slots.size() + rank;
    held_[bit >> 6] ^= uint64_t{1} << (bit & 63);
  }
  void SetShare(int expert, double share);

  const LayerProblem* problem_;
  std::vector<std::vector<int>> owners_;   // [experts], in no order that means anything
  std::vector<std::vector<int>> experts_;  // [ranks], likewise
  std::vector<double> share_;              // [experts]
  std::vector<double> load_;               // [ranks]
  std::vector<uint64_t> held_;             // bits [experts * ranks]
};

}  // namespace conclave
