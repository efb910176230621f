#include "placement/search/explain.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace conclave {
namespace {

std::string Time(double seconds) {
  if (seconds >= 1) return absl::StrFormat("%.2f s", seconds);
  if (seconds >= 1e-3) return absl::StrFormat("%.2f ms", seconds * 1e3);
  if (seconds >= 1e-6) return absl::StrFormat("%.1f us", seconds * 1e6);
  return absl::StrFormat("%.1f ns", seconds * 1e9);
}

// "experts 5.02 ms (61 %)".
std::string Part(const StepCost& step, CostKind kind) {
  const double seconds = step.seconds_by_kind[static_cast<int>(kind)];
  return absl::StrFormat("%s %s (%.0f %%)", std::string(CostKindName(kind)), Time(seconds),
                         100 * seconds / step.seconds);
}

std::vector<CostKind> KindsBy(const double (&amounts)[kCostKinds]) {
  std::vector<CostKind> kinds;
  for (int k = 0; k < kCostKinds; ++k) kinds.push_back(static_cast<CostKind>(k));
  std::stable_sort(kinds.begin(), kinds.end(), [&](CostKind a, CostKind b) {
    return amounts[static_cast<int>(a)] > amounts[static_cast<int>(b)];
  });
  return kinds;
}

// Seconds of a kind for one token of one sequence: comparable between plans of unlike concurrency.
double PerToken(const SearchInput& input, const PricedPlan& plan, double seconds) {
  return input.objective == Objective::kLatency ? seconds : seconds / plan.concurrency;
}

std::string Figure(const SearchInput& input, const PricedPlan& plan) {
  switch (input.objective) {
    case Objective::kLatency:
      return absl::StrCat(Time(plan.tpot_seconds), " a token");
    case Objective::kThroughput:
      return absl::StrFormat("%.0f tokens/s at %.0f sequences", plan.tokens_per_second,
                             plan.concurrency);
    case Objective::kCost:
      return absl::StrFormat("%.3f a million tokens at %.0f sequences",
                             plan.cost_per_million_tokens, plan.concurrency);
  }
  return "";
}

double Loss(const SearchInput& input, const PricedPlan& best, const PricedPlan& other) {
  switch (input.objective) {
    case Objective::kLatency:
      return other.tpot_seconds / best.tpot_seconds - 1;
    case Objective::kThroughput:
      return 1 - other.tokens_per_second / best.tokens_per_second;
    case Objective::kCost:
      return other.cost_per_million_tokens / best.cost_per_million_tokens - 1;
  }
  return 0;
}

// Bytes that all ranks move in a step, over what their memories could.
double ReadShare(const SearchInput& input, const PricedPlan& plan) {
  double bytes = 0;
  double peak = 0;
  for (size_t rank = 0; rank < plan.decode.ranks.size(); ++rank) {
    bytes += plan.decode.ranks[rank].bytes;
    peak += input.cluster.ProfileOf(plan.candidate.devices[rank]).memory_bandwidth;
  }
  // Stages work at once only when enough steps are in flight.
  const double seconds =
      std::max(plan.decode.interval_seconds, plan.decode.seconds / plan.steps_in_flight);
  return bytes / peak / seconds;
}

// Smallest and largest of shares that differ, as percentages: "4.0 to 8.3 %".
std::string Range(const std::vector<double>& shares) {
  const auto [least, most] = std::minmax_element(shares.begin(), shares.end());
  return absl::StrFormat("%.1f to %.1f %%", 100 * *least, 100 * *most);
}

bool Uneven(const std::vector<double>& shares) {
  if (shares.empty()) return false;
  const auto [least, most] = std::minmax_element(shares.begin(), shares.end());
  return *most - *least > 1e-9;
}

// Runs of equal numbers: "3x8+5".
std::string Runs(const std::vector<LayerRange>& stages) {
  std::vector<std::string> runs;
  for (size_t i = 0; i < stages.size();) {
    const int layers = stages[i].end - stages[i].begin;
    size_t end = i;
    while (end < stages.size() && stages[end].end - stages[end].begin == layers) ++end;
    runs.push_back(end - i == 1 ? absl::StrCat(layers) : absl::StrCat(end - i, "x", layers));
    i = end;
  }
  return absl::StrJoin(runs, "+");
}

std::string UnevenParts(const Candidate& candidate) {
  std::string text;
  if (candidate.spec.pp > 1) absl::StrAppend(&text, ", layers ", Runs(candidate.stages));
  if (Uneven(candidate.expert_shares)) {
    absl::StrAppend(&text, ", experts ", Range(candidate.expert_shares), " a rank");
  }
  if (Uneven(candidate.token_shares)) {
    absl::StrAppend(&text, ", tokens ", Range(candidate.token_shares), " a dp group");
  }
  return text;
}

}  // namespace

std::string DescribePlan(const PricedPlan& plan) {
  return absl::StrFormat("%s (%s) on %d device%s%s", plan.candidate.spec.ToString(),
                         std::string(ScheduleName(plan.candidate.schedule)), plan.devices,
                         plan.devices == 1 ? "" : "s", UnevenParts(plan.candidate));
}

std::string BindingNote(const SearchInput& input, const PricedPlan& plan) {
  const StepCost& step = plan.decode;
  const std::vector<CostKind> kinds = KindsBy(step.seconds_by_kind);
  std::string text = absl::StrCat("decode step ", Time(step.seconds), ": ");
  for (int i = 0; i < 3; ++i) {
    if (step.seconds_by_kind[static_cast<int>(kinds[i])] < 0.02 * step.seconds) break;
    absl::StrAppend(&text, i == 0 ? "" : ", ", Part(step, kinds[i]));
  }
  absl::StrAppendFormat(&text, "; bound by %s, reads at %.0f %% of the devices' bandwidth",
                        std::string(BoundName(step.bound)), 100 * ReadShare(input, plan));
  if (plan.concurrency >= 0.99 * plan.sequences_max && plan.sequences_max > 0) {
    absl::StrAppendFormat(&text, "; KV memory is full at %.0f sequences", plan.sequences_max);
  }
  return text;
}

std::string LossNote(const SearchInput& input, const PricedPlan& best, const PricedPlan& other) {
  double more[kCostKinds];
  double less[kCostKinds];
  for (int k = 0; k < kCostKinds; ++k) {
    more[k] = PerToken(input, other, other.decode.seconds_by_kind[k]) -
              PerToken(input, best, best.decode.seconds_by_kind[k]);
    less[k] = -more[k];
  }
  const CostKind cost = KindsBy(more)[0];
  const CostKind saving = KindsBy(less)[0];
  const double costs = more[static_cast<int>(cost)];
  const double saves = less[static_cast<int>(saving)];
  const char* unit = input.objective == Objective::kLatency ? "a step" : "a token";
  std::string text = absl::StrFormat("%s: %s, loses %.1f %%", DescribePlan(other),
                                     Figure(input, other), 100 * Loss(input, best, other));
  // A share of the whole below which a part is not worth a word.
  const double shown = 0.002 * PerToken(input, best, best.decode.seconds);
  if (costs > shown) {
    absl::StrAppendFormat(&text, "; %s cost %s more %s", std::string(CostKindName(cost)),
                          Time(costs), unit);
  }
  if (saves > shown) {
    absl::StrAppendFormat(&text, "%s %s save %s", costs > shown ? "," : ";",
                          std::string(CostKindName(saving)), Time(saves));
  }
  if (other.sequences_max < best.sequences_max && input.objective != Objective::kLatency) {
    absl::StrAppendFormat(&text, "; KV memory holds %.0f sequences, not %.0f", other.sequences_max,
                          best.sequences_max);
  }
  return text;
}

std::string ReasonOf(const SearchInput& input, const SearchResult& result) {
  const PricedPlan& best = result.best;
  std::string text =
      absl::StrCat(DescribePlan(best), " gives ", Figure(input, best), ", first token after ",
                   Time(best.ttft_seconds), ". Its ", BindingNote(input, best), ".");
  const int devices = input.cluster.DeviceCount();
  if (best.devices < devices) {
    absl::StrAppendFormat(&text, " It leaves %d of %d devices idle: more of them do not help here.",
                          devices - best.devices, devices);
  }
  for (size_t i = 0; i < std::min<size_t>(2, result.runners_up.size()); ++i) {
    absl::StrAppend(
        &text, i == 0 ? " Next: " : " Then: ", LossNote(input, best, result.runners_up[i]), ".");
  }
  absl::StrAppendFormat(&text, " Of %d candidates priced%s", result.candidates,
                        result.slo_missed > 0
                            ? absl::StrFormat(", %d missed the SLO", result.slo_missed)
                            : std::string());
  absl::StrAppendFormat(&text, "; %d more did not fit the memory.", result.too_large);
  return text;
}

absl::Status SloMissed(const SearchInput& input, const PricedPlan& closest) {
  std::string missed;
  if (input.ttft_seconds > 0 && closest.ttft_seconds > input.ttft_seconds) {
    missed = absl::StrFormat("first token after %s where ttft asks for %s",
                             Time(closest.ttft_seconds), Time(input.ttft_seconds));
  }
  if (input.tpot_seconds > 0 && closest.tpot_seconds > input.tpot_seconds) {
    absl::StrAppend(&missed, missed.empty() ? "" : " and ", Time(closest.tpot_seconds),
                    " between tokens where tpot asks for ", Time(input.tpot_seconds));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("plan search: no plan of ", input.model.name, " on ", input.cluster.name,
                   " meets the SLO; the closest, ", DescribePlan(closest), ", has ", missed, " (",
                   BindingNote(input, closest),
                   "); allow more time, ask for fewer sequences or shorter prompts, or add "
                   "devices"));
}

}  // namespace conclave
