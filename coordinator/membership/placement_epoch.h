// PlacementEpoch: one plan on its way to serving, as a transaction: Assign until every rank is
// Prepared, then Commit until every rank is Ready. A pure state machine: says what to send and when
// to repeat it; the actor sends. Owned by the coordinator actor, on its thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "comm/types/worker_facts.h"

namespace conclave {

class PlacementEpoch {
 public:
  // names[rank] and nodes[rank] are of plan.workers[rank].
  PlacementEpoch(ParallelPlan plan, std::vector<std::string> names, std::vector<std::string> nodes);

  enum class Phase { kLoading, kConnecting, kServing };
  Phase phase() const { return phase_; }
  const ParallelPlan& plan() const { return plan_; }
  Epoch epoch() const { return plan_.epoch; }
  const std::vector<std::string>& names() const { return names_; }

  // The rank of a worker process in this plan; -1: none.
  int RankOf(WorkerId id) const;

  // Facts; late and repeated ones change nothing. True when the last missing one came and the phase
  // went on.
  bool OnPrepared(int rank, const Prepared& prepared);
  bool OnReady(int rank);

  // Of a prepared rank, else null.
  const Prepared* prepared(int rank) const { return prepared_[rank] ? &*prepared_[rank] : nullptr; }
  bool ready(int rank) const { return ready_[rank]; }
  // "2 of 4 workers are prepared".
  std::string Progress() const;

  // Ranks whose Assign (kLoading) or Commit (kConnecting) is due, at first and then every
  // `interval` without an answer.
  std::vector<int> DueRanks(absl::Time now, absl::Duration interval);

  Commit MakeCommit() const;

  // KV pages of each dp group: the least of its ranks, at most kKvPagesMax. All ranks are prepared.
  std::vector<int> PagesByGroup() const;

 private:
  void Enter(Phase phase);

  const ParallelPlan plan_;
  const std::vector<std::string> names_;
  const std::vector<std::string> nodes_;
  std::vector<std::pair<WorkerId, int>> ranks_;  // sorted by id
  Phase phase_ = Phase::kLoading;
  std::vector<std::optional<Prepared>> prepared_;  // by rank
  std::vector<bool> ready_;                        // by rank
  std::vector<absl::Time> due_;                    // by rank, of the next send in this phase
  int missing_ = 0;                                // answers of this phase
};

// Of one dp group: bounds what a worker can make the coordinator allocate.
inline constexpr int kKvPagesMax = 1 << 22;

}  // namespace conclave
