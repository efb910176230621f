#include "tools/cli/plan_facts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace conclave {
namespace {

// Memory of two ranks looks alike in a table when it agrees to this share of the device.
constexpr double kAlike = 2e-3;
// A dp group computes at most so many prompt tokens in a step, as the search takes it.
constexpr double kChunkTokensMax = 2048;

bool Alike(const MemoryUse& a, const MemoryUse& b) {
  const double near = kAlike * a.capacity;
  return a.capacity == b.capacity && std::fabs(a.weights - b.weights) < near &&
         std::fabs(a.kv - b.kv) < near && std::fabs(a.scratch - b.scratch) < near;
}

// [stage][stage rank] most expert units of any layer.
std::vector<std::vector<int>> ExpertsHeld(const PlanDocument& document) {
  const Candidate& candidate = document.result.best.candidate;
  std::vector<std::vector<int>> held(candidate.spec.pp,
                                     std::vector<int>(candidate.spec.StageSize()));
  for (int stage = 0; stage < candidate.spec.pp; ++stage) {
    const LayerRange range = candidate.stages[stage];
    for (int layer = range.begin; layer < range.end; ++layer) {
      std::vector<int> counts(candidate.spec.StageSize());
      for (const int32_t rank : document.experts.map.layers[layer].ranks()) ++counts[rank];
      for (size_t rank = 0; rank < counts.size(); ++rank) {
        held[stage][rank] = std::max(held[stage][rank], counts[rank]);
      }
    }
  }
  return held;
}

std::string Digits(double value) {
  return absl::StrFormat(value >= 99.95 ? "%.0f" : value >= 9.995 ? "%.1f" : "%.2f", value);
}

}  // namespace

double StepTokens(const PlanInputs& inputs, const PricedPlan& plan) {
  const double chunk = std::min(inputs.search.mix.prompt_tokens, kChunkTokensMax);
  return std::max(plan.concurrency, plan.candidate.spec.dp * chunk);
}

std::vector<MemoryUse> MemoryOfRanks(const PlanDocument& document) {
  const SearchInput& search = document.inputs.search;
  const PricedPlan& plan = document.result.best;
  const Candidate& candidate = plan.candidate;
  const std::vector<RankBytes> bytes =
      BytesOfCandidate(search.model, candidate, StepTokens(document.inputs, plan));
  const double tokens = plan.concurrency * (search.mix.prompt_tokens + search.mix.output_tokens);
  std::vector<MemoryUse> uses(bytes.size());
  for (size_t rank = 0; rank < bytes.size(); ++rank) {
    const int dp = candidate.spec.PositionOf(static_cast<int>(rank)).dp;
    uses[rank].weights = bytes[rank].weights;
    uses[rank].kv = bytes[rank].kv_per_token * tokens * candidate.token_shares[dp];
    uses[rank].scratch = bytes[rank].activations;
    uses[rank].capacity = search.cluster.ProfileOf(candidate.devices[rank]).memory_bytes;
  }
  return uses;
}

std::vector<RankGroup> GroupRanks(const PlanDocument& document) {
  const Candidate& candidate = document.result.best.candidate;
  const std::vector<MemoryUse> uses = MemoryOfRanks(document);
  const std::vector<std::vector<int>> held = ExpertsHeld(document);
  std::vector<RankGroup> groups;
  for (size_t rank = 0; rank < uses.size(); ++rank) {
    const GridPosition at = candidate.spec.PositionOf(static_cast<int>(rank));
    const LayerRange range = candidate.stages[at.pp];
    const std::string& profile =
        document.inputs.search.cluster.ProfileOf(candidate.devices[rank]).name;
    const int experts = held[at.pp][candidate.spec.StageRankOf(at)];
    const RankGroup mine = {
        {static_cast<int>(rank)}, {at.pp}, range.end - range.begin, profile, experts, uses[rank]};
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const RankGroup& group) {
      return group.layers == mine.layers && group.profile == profile && group.experts == experts &&
             Alike(group.memory, mine.memory);
    });
    if (same == groups.end()) {
      groups.push_back(mine);
    } else {
      same->ranks.push_back(static_cast<int>(rank));
      if (same->stages.back() != at.pp) same->stages.push_back(at.pp);
    }
  }
  return groups;
}

std::string LayersText(const RankGroup& group, const Candidate& candidate) {
  if (group.stages.size() > 1) return absl::StrCat(group.layers, " each");
  const LayerRange range = candidate.stages[group.stages.front()];
  return absl::StrFormat("%d-%d", range.begin, range.end - 1);
}

std::vector<CostRow> CostRows(const StepCost& step) {
  std::vector<CostRow> rows;
  for (int kind = 0; kind < kCostKinds; ++kind) {
    const double seconds = step.seconds_by_kind[kind];
    if (seconds <= 0) continue;
    rows.push_back(
        {static_cast<CostKind>(kind), seconds, step.seconds > 0 ? seconds / step.seconds : 0});
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const CostRow& a, const CostRow& b) { return a.seconds > b.seconds; });
  return rows;
}

std::vector<LinkRow> LinkRows(const PlanInputs& inputs, const PricedPlan& plan) {
  const std::vector<RankCost> ranks = WithHandOvers(inputs.search, plan);
  std::vector<LinkRow> rows;
  for (int link = 0; link < 3; ++link) {
    LinkRow row;
    row.link = static_cast<LinkClass>(link);
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      const RankCost& cost = ranks[rank];
      row.bytes += cost.link_bytes[link];
      row.messages += cost.link_messages[link];
      if (cost.link_bytes[link] > row.busiest_bytes) {
        row.busiest_bytes = cost.link_bytes[link];
        row.busiest_rank = static_cast<int>(rank);
      }
    }
    if (row.bytes > 0 || row.messages > 0) rows.push_back(row);
  }
  return rows;
}

ReadRate DecodeReads(const PlanInputs& inputs, const PricedPlan& plan) {
  const StepCost& step = plan.decode;
  ReadRate rate;
  double bandwidth = 0;
  for (size_t rank = 0; rank < step.ranks.size(); ++rank) {
    rate.bytes += step.ranks[rank].bytes;
    bandwidth += inputs.search.cluster.ProfileOf(plan.candidate.devices[rank]).memory_bandwidth;
  }
  // With the pipeline full, all stages read at the same time, each for another step.
  const double seconds =
      std::max(step.interval_seconds, step.seconds / std::max(1, plan.steps_in_flight));
  if (bandwidth * seconds > 0) rate.share = rate.bytes / (bandwidth * seconds);
  return rate;
}

std::string LossText(const PricedPlan& plan) {
  absl::string_view text = plan.note;
  const std::string devices =
      absl::StrCat(" on ", plan.devices, plan.devices == 1 ? " device" : " devices");
  const size_t at = text.find(devices);
  if (absl::StartsWith(text, plan.candidate.spec.ToString()) && at != absl::string_view::npos) {
    text.remove_prefix(at + devices.size());
    while (!text.empty() && (text[0] == ',' || text[0] == ':' || text[0] == ' ')) {
      text.remove_prefix(1);
    }
  }
  return std::string(text);
}

std::string GridText(const ParallelSpec& spec) {
  std::string text = absl::StrFormat("tp=%d,dp=%d,pp=%d", spec.tp, spec.dp, spec.pp);
  if (spec.ep > 0) absl::StrAppend(&text, ",ep=", spec.ep);
  if (spec.slices > 1) absl::StrAppend(&text, ",slices=", spec.slices);
  return text;
}

std::string RankRangesText(const std::vector<int>& numbers) {
  std::string text;
  for (size_t first = 0; first < numbers.size();) {
    size_t end = first + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    absl::StrAppend(&text, text.empty() ? "" : ",", numbers[first]);
    if (end - first > 1) absl::StrAppend(&text, "-", numbers[end - 1]);
    first = end;
  }
  return text;
}

std::string ClusterText(const ClusterTopology& cluster) {
  std::vector<int> devices(cluster.profiles.size());
  for (const ClusterNode& node : cluster.nodes) devices[node.profile] += node.devices;
  std::string text =
      absl::StrCat(cluster.nodes.size(), cluster.nodes.size() == 1 ? " node" : " nodes");
  for (size_t i = 0; i < devices.size(); ++i) {
    if (devices[i] > 0) absl::StrAppend(&text, ", ", devices[i], " x ", cluster.profiles[i].name);
  }
  return text;
}

std::string TimeText(double seconds) {
  if (!std::isfinite(seconds)) return "never";
  if (seconds >= 0.9995) return Digits(seconds) + " s";
  if (seconds >= 0.9995e-3) return Digits(seconds * 1e3) + " ms";
  return Digits(seconds * 1e6) + " us";
}

std::string BytesText(double bytes) {
  if (!std::isfinite(bytes)) return "no end";
  const struct {
    double scale;
    const char* unit;
  } kUnits[] = {{1e12, " TB"}, {1e9, " GB"}, {1e6, " MB"}, {1e3, " kB"}};
  for (const auto& unit : kUnits) {
    if (bytes >= 0.9995 * unit.scale) return Digits(bytes / unit.scale) + unit.unit;
  }
  return absl::StrFormat("%.0f B", bytes);
}

std::string CountText(double count) {
  if (!std::isfinite(count)) return "no end";
  if (count < 999.5)
    return count == std::floor(count) ? absl::StrFormat("%.0f", count) : Digits(count);
  std::string digits = absl::StrFormat("%.0f", count);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, ",");
  return digits;
}

std::vector<InputRow> InputRows(const PlanInputs& inputs) {
  const SearchInput& search = inputs.search;
  const ModelDims& model = search.model;
  std::vector<InputRow> rows;
  std::string sizes = absl::StrFormat("%s: %.4g B weights, %d layers, hidden %d", model.name,
                                      model.TotalWeights() / 1e9, model.layers, model.hidden);
  if (model.IsMoe()) {
    absl::StrAppendFormat(&sizes, ", top %d of %d experts in %d layers", model.top_k, model.experts,
                          model.MoeLayers());
  }
  rows.push_back({"model", sizes});
  std::string formats = std::string(NumberFormatName(model.format));
  if (model.IsMoe() && model.expert_format != model.format) {
    absl::StrAppend(&formats, ", experts ", NumberFormatName(model.expert_format));
  }
  rows.push_back({"formats", absl::StrCat(formats, "; KV ", NumberFormatName(model.kv_format))});
  rows.push_back({"cluster", absl::StrCat(search.cluster.name, ": ", ClusterText(search.cluster))});
  rows.push_back({"objective", std::string(ObjectiveName(search.objective))});
  const RequestMix& mix = search.mix;
  const std::string sequences =
      mix.concurrency > 0 ? CountText(mix.concurrency) + " sequences at once, " : "";
  rows.push_back({"requests", absl::StrCat(sequences, CountText(mix.prompt_tokens), " tokens in, ",
                                           CountText(mix.output_tokens), " out")});
  std::string limits;
  if (search.ttft_seconds > 0) {
    absl::StrAppend(&limits, "first token within ", TimeText(search.ttft_seconds));
  }
  if (search.tpot_seconds > 0) {
    absl::StrAppend(&limits, limits.empty() ? "" : ", ", "then a token within ",
                    TimeText(search.tpot_seconds));
  }
  rows.push_back({"limits", limits.empty() ? "none" : limits});
  const std::string grid = search.spec ? GridText(*search.spec) : "searched";
  const std::string exchange =
      search.schedule ? std::string(ScheduleName(*search.schedule)) : "searched";
  rows.push_back({"given", absl::StrCat("grid ", grid, ", exchange ", exchange)});
  const bool measured = inputs.load.layers() > 0;
  if (model.IsMoe()) rows.push_back({"expert load", measured ? "from a trace" : "even"});
  return rows;
}

}  // namespace conclave
