#include "kernels/moe_gate/moe_gate.h"

#include <cmath>
#include <limits>

#include "glog/logging.h"
#include "kernels/moe_gate/exp_sum.h"

namespace conclave {
namespace {

// The order of the choice: NaN counts as the lowest.
float Key(float logit) {
  return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
}

// The top_k largest logits of a row by insertion, ties to the lower expert; softmax keeps their
// order.
void ChooseExperts(const float* logits, int64_t count, absl::Span<int32_t> chosen) {
  const int top_k = static_cast<int>(chosen.size());
  int held = 0;
  for (int32_t expert = 0; expert < count; ++expert) {
    const float key = Key(logits[expert]);
    if (held == top_k && !(key > Key(logits[chosen[held - 1]]))) continue;
    int place = held < top_k ? held++ : top_k - 1;
    for (; place > 0 && key > Key(logits[chosen[place - 1]]); --place) {
      chosen[place] = chosen[place - 1];
    }
    chosen[place] = expert;
  }
}

}  // namespace

void CheckMoeGateArgs(const MoeGateArgs& args) {
  CHECK(args.top_k > 0 && args.top_k <= args.logits.cols) << args.top_k;
  CHECK_EQ(static_cast<int64_t>(args.experts.size()), args.logits.rows * args.top_k);
  CHECK_EQ(args.weights.size(), args.experts.size());
}

void MoeGate(const MoeGateArgs& args) {
  CheckMoeGateArgs(args);
  for (int64_t t = 0; t < args.logits.rows; ++t) {
    const float* logits = args.logits.row(t);
    const auto experts = args.experts.subspan(t * args.top_k, args.top_k);
    const auto weights = args.weights.subspan(t * args.top_k, args.top_k);
    ChooseExperts(logits, args.logits.cols, experts);
    const float max = logits[experts[0]];
    for (int k = 0; k < args.top_k; ++k) weights[k] = logits[experts[k]];
    const float sum = ExpSum(logits, args.logits.cols, max);
    ExpScale(weights, max, sum);
    if (!args.normalize) continue;
    float total = 0;
    for (float weight : weights) total += weight;
    for (float& weight : weights) weight /= total;
  }
}

}  // namespace conclave
