#include "placement/plan_summary.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "glog/logging.h"
#include "placement/memory.h"

namespace conclave {
namespace {

std::string HumanBytes(int64_t bytes) {
  if (bytes >= int64_t{1} << 30) return absl::StrFormat("%.1f GiB", bytes / double(1 << 30));
  if (bytes >= int64_t{1} << 20) return absl::StrFormat("%.1f MiB", bytes / double(1 << 20));
  return absl::StrFormat("%.1f KiB", bytes / 1024.0);
}

// The first layer of the rank's stage that has experts, or -1.
int FirstMoeLayer(const ModelShape& shape, LayerRange stage) {
  for (int layer = stage.begin; layer < stage.end; ++layer) {
    if (shape.IsMoeLayer(layer)) return layer;
  }
  return -1;
}

std::string RankLine(const ModelShape& shape, const ParallelPlan& plan, int rank) {
  const ParallelSpec& spec = plan.spec;
  const GridPosition at = spec.PositionOf(rank);
  const LayerRange stage = plan.stages[at.pp];
  const int heads = shape.heads / spec.tp;
  std::string line = absl::StrFormat("layers %d-%d", stage.begin, stage.end - 1);
  absl::StrAppendFormat(&line, ", tp %d of %d (heads %d-%d), dp %d of %d", at.tp, spec.tp,
                        at.tp * heads, (at.tp + 1) * heads - 1, at.dp, spec.dp);
  const int moe_layer = FirstMoeLayer(shape, stage);
  if (moe_layer >= 0) {
    absl::StrAppend(&line, ", experts ", ExpertsText(plan, moe_layer, spec.StageRankOf(at)));
  }
  // The dtype of the cache does not enter the weights.
  const RankMemory memory = MemoryOfRank(shape, spec, stage, at, Dtype::kF32);
  return absl::StrCat(line, ", ", HumanBytes(memory.weight_bytes), " of weights");
}

}  // namespace

std::string ExpertsText(const ParallelPlan& plan, int layer, int stage_rank) {
  const LayerExperts& experts = plan.experts.layers[layer];
  const std::vector<ExpertUnit> units = experts.UnitsOf(stage_rank);
  std::string text;
  for (size_t i = 0; i < units.size();) {
    size_t end = i + 1;  // of the run of neighbouring experts with the same slice
    while (end < units.size() && units[end].slice == units[i].slice &&
           units[end].expert == units[end - 1].expert + 1) {
      ++end;
    }
    absl::StrAppend(&text, text.empty() ? "" : ",", units[i].expert);
    if (end - i > 1) absl::StrAppend(&text, "-", units[end - 1].expert);
    if (experts.slices() > 1) absl::StrAppend(&text, "/", units[i].slice);
    i = end;
  }
  return text.empty() ? "none" : text;
}

std::vector<std::string> SummarizePlan(const ModelShape& shape, const ParallelPlan& plan,
                                       const std::vector<std::string>& names) {
  CHECK_EQ(static_cast<int>(names.size()), plan.spec.WorkerCount());
  std::vector<std::string> lines;
  lines.push_back(absl::StrFormat("%s: %d workers, exchange %s", plan.spec.ToString(),
                                  plan.spec.WorkerCount(), ExchangeKindName(plan.exchange)));
  if (plan.payload != PayloadFormat::kF32) {
    absl::StrAppend(&lines.back(), " in ", PayloadFormatName(plan.payload));
  }
  for (int rank = 0; rank < plan.spec.WorkerCount(); ++rank) {
    lines.push_back(
        absl::StrCat("rank ", rank, " (", names[rank], "): ", RankLine(shape, plan, rank)));
  }
  return lines;
}

}  // namespace conclave
