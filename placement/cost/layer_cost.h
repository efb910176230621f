// LayerCost: what one layer costs one rank, by phase: before the exchange (attention, router, the
// dense FFN), the exchange and collectives, and after it (experts). Ranks of a stage meet between
// the phases. Pure functions; any thread.
#pragma once

#include "placement/cost/cost_model.h"
#include "placement/cost/link_costs.h"

namespace conclave {

// Where a rank stands and what of the step is its own.
struct RankSite {
  const HardwareProfile* profile = nullptr;
  double tokens = 0;  // of its dp group
  double sequences = 0;
  double logit_rows = 0;
  double expert_share = 0;
  PeerCounts peers;
  GroupLink tp_link;
  LinkCost links[3];  // from this rank, by LinkClass

  bool operator==(const RankSite&) const = default;
};

struct LayerInput {
  const ModelDims* model = nullptr;
  const ParallelSpec* spec = nullptr;
  ScheduleKind schedule = ScheduleKind::kPcc;
  const StepLoad* load = nullptr;
};

struct LayerCost {
  RankCost before;
  RankCost exchange;
  RankCost after;
};

LayerCost CostOfMoeLayer(const LayerInput& input, const RankSite& site);
// All of it in `before`.
RankCost CostOfDenseLayer(const LayerInput& input, const RankSite& site);
// Embedding, last norm, head and sampling, on the last stage.
RankCost CostOfHead(const LayerInput& input, const RankSite& site);

void AddCost(const RankCost& cost, double times, RankCost* sum);

}  // namespace conclave
