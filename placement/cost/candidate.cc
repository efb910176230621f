#include "placement/cost/candidate.h"

#include "glog/logging.h"
#include "placement/memory.h"

namespace conclave {

absl::string_view ScheduleName(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kNaive:
      return "naive";
    case ScheduleKind::kPcc:
      return "pcc";
    case ScheduleKind::kTwoLevel:
      return "two-level";
  }
  return "?";
}

Candidate EvenCandidate(const ParallelSpec& spec, ScheduleKind schedule, int layers,
                        std::vector<int> devices) {
  CHECK_EQ(static_cast<int>(devices.size()), spec.WorkerCount());
  Candidate candidate;
  candidate.spec = spec;
  candidate.schedule = schedule;
  candidate.devices = std::move(devices);
  candidate.stages = SplitLayers(layers, spec.pp);
  candidate.token_shares.assign(spec.dp, 1.0 / spec.dp);
  if (spec.ep > 0) candidate.expert_shares.assign(spec.StageSize(), 1.0 / spec.StageSize());
  return candidate;
}

}  // namespace conclave
