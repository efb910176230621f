#include "coordinator/request/expert_loads.h"

#include <cmath>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

constexpr double kDecayTokens = ExpertLoads::kHalfLifeTokens / 64;  // how often counts are scaled

}  // namespace

ExpertLoads::ExpertLoads(const ModelShape& shape) {
  if (!shape.IsMoe()) return;
  const int moe_layers = shape.layers - static_cast<int>(shape.dense_layers.size());
  choices_per_token_ = static_cast<double>(moe_layers) * shape.moe.top_k;
  counts_ = LoadProfile(shape.layers, shape.moe.experts);
}

absl::Status ExpertLoads::Add(const StepResult& result) {
  for (const ExpertLoad& load : result.experts) {
    const bool known = load.layer >= 0 && load.layer < counts_.layers() && load.expert >= 0 &&
                       load.expert < counts_.experts() && load.tokens >= 0;
    if (known) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "step %s reports %d tokens of expert %d of layer %d; the model has %d layers of %d experts",
        result.step.ToString(), load.tokens, load.expert, load.layer, counts_.layers(),
        counts_.experts()));
  }
  double choices = 0;
  for (const ExpertLoad& load : result.experts) {
    if (load.slice != 0) continue;
    counts_.Add(load.layer, load.expert, load.tokens);
    choices += load.tokens;
  }
  if (choices_per_token_ <= 0) return absl::OkStatus();
  since_decay_ += choices / choices_per_token_;
  if (since_decay_ < kDecayTokens) return absl::OkStatus();
  counts_.Decay(std::exp2(-since_decay_ / kHalfLifeTokens));
  since_decay_ = 0;
  return absl::OkStatus();
}

}  // namespace conclave
