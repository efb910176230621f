// Invariants: what must hold of every message that a simulated cluster delivers: plans in which
// every expert has an owner, one plan for each epoch, epochs that grow, no page in two block tables
// of a step. Fed by the world's observer; one thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "comm/actor/sim_event.h"
#include "comm/types/worker_facts.h"
#include "tests/sim/ledger.h"

namespace conclave {

class Invariants {
 public:
  // Violations go to `ledger`, which outlives this.
  explicit Invariants(Ledger& ledger) : ledger_(ledger) {}

  void OnEvent(const SimEvent& event);

  int epochs() const { return static_cast<int>(plans_.size()); }
  int committed_epochs() const { return committed_; }
  uint64_t steps_seen() const { return steps_seen_; }

 private:
  void CheckAssign(Epoch epoch, const Assign& assign);
  void CheckPlan(const ModelShape& shape, const ParallelPlan& plan);
  void CheckStep(Epoch epoch, const StepPlan& plan);

  Ledger& ledger_;
  std::map<Epoch, ParallelPlan> plans_;  // as first assigned
  Epoch last_committed_;
  int committed_ = 0;
  uint64_t steps_seen_ = 0;
};

}  // namespace conclave
