#include "tests/sim/invariants.h"

#include <set>

#include "absl/strings/str_cat.h"

namespace conclave {

void Invariants::OnEvent(const SimEvent& event) {
  if (event.envelope == nullptr) return;
  const Epoch epoch = event.envelope->epoch;
  if (const auto* assign = std::get_if<Assign>(&event.envelope->message)) {
    CheckAssign(epoch, *assign);
  } else if (const auto* step = std::get_if<Step>(&event.envelope->message)) {
    CheckStep(epoch, step->plan);
  } else if (std::holds_alternative<Commit>(event.envelope->message) && epoch > last_committed_) {
    last_committed_ = epoch;
    ++committed_;
    if (plans_.count(epoch) == 0) {
      ledger_.AddViolation(absl::StrCat(epoch.ToString(), " is committed but was never assigned"));
    }
  }
}

void Invariants::CheckAssign(Epoch epoch, const Assign& assign) {
  const ParallelPlan& plan = assign.plan;
  if (plan.epoch != epoch || assign.rank < 0 || assign.rank >= plan.spec.WorkerCount()) {
    ledger_.AddViolation(absl::StrCat(epoch.ToString(), ": an Assign of ", plan.epoch.ToString(),
                                      " for rank ", assign.rank));
    return;
  }
  const auto [it, is_new] = plans_.emplace(epoch, plan);
  if (is_new) {
    CheckPlan(assign.shape, plan);
  } else if (!(it->second == plan)) {
    ledger_.AddViolation(absl::StrCat(epoch.ToString(), " has two plans"));
  }
}

void Invariants::CheckPlan(const ModelShape& shape, const ParallelPlan& plan) {
  const std::string epoch = plan.epoch.ToString();
  const std::set<WorkerId> distinct(plan.workers.begin(), plan.workers.end());
  if (distinct.size() != plan.workers.size() ||
      static_cast<int>(plan.workers.size()) != plan.spec.WorkerCount()) {
    ledger_.AddViolation(absl::StrCat(epoch, ": workers are missing or doubled"));
  }
  int next_layer = 0;
  for (const LayerRange& stage : plan.stages) {
    if (stage.begin != next_layer || stage.end <= stage.begin) {
      ledger_.AddViolation(absl::StrCat(epoch, ": stages do not cover the layers"));
    }
    next_layer = stage.end;
  }
  if (next_layer != shape.layers) {
    ledger_.AddViolation(absl::StrCat(epoch, ": stages end at layer ", next_layer));
  }
  for (int layer = 0; layer < shape.layers; ++layer) {
    const LayerExperts& experts = plan.experts.layers[layer];
    if (!shape.IsMoeLayer(layer)) continue;
    if (experts.experts() != shape.moe.experts) {
      ledger_.AddViolation(absl::StrCat(epoch, ": layer ", layer, " lacks experts"));
      continue;
    }
    for (int expert = 0; expert < shape.moe.experts; ++expert) {
      for (int slice = 0; slice < experts.slices(); ++slice) {
        const auto owners = experts.Owners({expert, slice});
        if (owners.empty() || owners[0] < 0 || owners.back() >= plan.spec.StageSize()) {
          ledger_.AddViolation(
              absl::StrCat(epoch, ": expert ", expert, " of layer ", layer, " has no owner"));
        }
      }
    }
  }
}

void Invariants::CheckStep(Epoch epoch, const StepPlan& plan) {
  ++steps_seen_;
  std::set<int32_t> owned;
  for (const SequenceSlice& slice : plan.batch) {
    for (int32_t page : slice.pages) {
      if (owned.insert(page).second) continue;
      ledger_.AddViolation(absl::StrCat(epoch.ToString(), " ", plan.step.ToString(), ": page ",
                                        page, " is owned twice"));
    }
  }
}

}  // namespace conclave
