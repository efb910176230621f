// Pricer: what a candidate does for a request mix: time to the first token, time between tokens,
// tokens per second, cost, and how many sequences the KV memory holds. Keeps a reference to the
// SearchInput, which must outlive it; no other state; any thread. The formulas stand in README.md.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "placement/search/check_input.h"
#include "placement/search/search.h"

namespace conclave {

// A dp group computes at most this many prompt tokens in one step, unless more than that arrive.
inline constexpr double kChunkTokensMax = 2048;
// Of a device's memory, for guesses; CheckFits has the last word.
inline constexpr double kPlannedMemoryShare = 0.93;

class Pricer {
 public:
  explicit Pricer(const SearchInput& input) : input_(input) {}

  // ResourceExhausted (CheckFits) when weights, scratch and the KV cache of LeastSequences at their
  // full length do not fit.
  absl::Status Fits(const Candidate& candidate) const;
  // At the mix's concurrency, or at the best one where the objective searches it. The candidate
  // fits. `note` stays empty.
  PricedPlan Price(const Candidate& candidate) const;
  // The same but for sequences_max, which is 0 where the objective does not need it: cheaper.
  PricedPlan Rank(const Candidate& candidate) const;
  // Rank at the concurrency of `other`, a plan of the same grid, or at the candidate's own capacity
  // where `other` is at its: one price instead of a search. FitsLike: whether it may be.
  PricedPlan RankLike(const Candidate& candidate, const PricedPlan& other) const;
  bool FitsLike(const Candidate& candidate, const PricedPlan& other) const;
  // At `concurrency`; leaves sequences_max at 0.
  PricedPlan PriceAt(const Candidate& candidate, double concurrency) const;

  // True only if no concurrency lets `candidate` meet the tpot SLO and be better than `other`,
  // which does: one price that spares a search. Both times and tokens per second grow with the
  // sequences.
  bool CannotBeat(const Candidate& candidate, const PricedPlan& other) const;

  // Smaller is better: seconds between tokens, seconds per token of the cluster, or cost. Rounded
  // to about nine digits, so that plans that differ by summation order alone tie.
  double Score(const PricedPlan& plan) const;
  // Largest of ttft and tpot over their SLO; at most 1 when both are met or none is asked for.
  double SloRatio(const PricedPlan& plan) const;
  // Whether `a` is the better plan: SLO met, then score, fewer stages, smaller tp, fewer devices,
  // and last the order of schedule, slices and device indices.
  bool Better(const PricedPlan& a, const PricedPlan& b) const;
  // Sequences that a step of the candidate has at least: the mix's, one per dp group at least.
  double LeastSequences(const Candidate& candidate) const;

 private:
  absl::Status FitsAt(const Candidate& candidate, double sequences) const;
  double SequencesMax(const Candidate& candidate) const;
  void PriceInFlight(int steps, PricedPlan* plan) const;
  // `plan`, whose candidate and prefill are set, at another concurrency.
  PricedPlan Reprice(PricedPlan plan, double concurrency) const;
  bool SearchesConcurrency() const;
  PricedPlan SearchConcurrency(const Candidate& candidate, double sequences_max) const;
  // Between `meets`, which meets the SLO, and the concurrency `misses`, which does not.
  PricedPlan CloseOnSlo(double misses, PricedPlan meets) const;
  double CostPerHour(const Candidate& candidate) const;

  const SearchInput& input_;
};

}  // namespace conclave
