#include "tools/cli/plan_experts.h"

#include <algorithm>

#include "comm/base/status.h"
#include "placement/forecast/spread_map.h"
#include "placement/forecast/what_if.h"

namespace conclave {

double BlockMakespan(const Candidate& candidate, const LoadProfile& load) {
  if (load.layers() == 0) return 1;
  const LayerExperts blocks = SpreadMap(candidate, load.experts());
  double sum = 0;
  for (int layer = 0; layer < load.layers(); ++layer) {
    std::vector<double> rows(candidate.spec.StageSize());
    double total = 0;
    for (int expert = 0; expert < load.experts(); ++expert) {
      const double tokens = load.at(layer, expert);
      total += tokens;
      for (int slice = 0; slice < blocks.slices(); ++slice) {
        const auto owners = blocks.Owners({expert, slice});
        for (const int32_t rank : owners) rows[rank] += tokens / blocks.slices() / owners.size();
      }
    }
    double busiest = 1;
    for (size_t rank = 0; rank < rows.size(); ++rank) {
      const double fair = total * candidate.expert_shares[rank];
      if (fair > 0) busiest = std::max(busiest, rows[rank] / fair);
    }
    sum += busiest;
  }
  return sum / load.layers();
}

absl::StatusOr<PlacedExperts> PlaceExperts(const ModelDims& model, const ClusterTopology& cluster,
                                           const Candidate& candidate, const LoadProfile& load) {
  PlacedExperts placed;
  placed.map.layers.resize(model.layers);
  if (!model.IsMoe()) return placed;
  const LayerExperts blocks = SpreadMap(candidate, model.experts);
  ReplanResult balanced;
  if (load.layers() > 0) {
    ASSIGN_OR_RETURN(balanced, ReplanExperts({.model = model,
                                              .cluster = cluster,
                                              .candidate = candidate,
                                              .experts = load,
                                              .redundant_slots = 0,
                                              .current = {}}));
    placed.makespan_in_blocks = BlockMakespan(candidate, load);
    placed.makespan = balanced.makespan_mean;
    placed.makespan_max = balanced.makespan_max;
  }
  int row = 0;
  for (int layer = 0; layer < model.layers; ++layer) {
    if (!model.moe_layers[layer]) continue;
    placed.map.layers[layer] = load.layers() > 0 ? balanced.maps[row++] : blocks;
  }
  return placed;
}

}  // namespace conclave
