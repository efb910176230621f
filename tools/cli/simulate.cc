#include "tools/cli/simulate.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "placement/forecast/what_if.h"
#include "tools/cli/exact_json.h"

namespace conclave {
namespace {

namespace json = boost::json;

json::string Text(absl::string_view text) { return json::string(text.data(), text.size()); }

absl::Status Refuse(absl::string_view flag, const std::string& value, absl::string_view remedy) {
  return absl::InvalidArgumentError(absl::StrCat(flag, " '", value, "': ", remedy));
}

absl::Status CheckOptions(const SimulateOptions& options, const ModelDims& model) {
  if (options.skew > 0 && !options.question.trace_path.empty()) {
    return Refuse("--skew", absl::StrCat(options.skew), "--trace says the load; give one of them");
  }
  if (model.IsMoe()) return absl::OkStatus();
  if (options.skew > 0) {
    return Refuse("--skew", absl::StrCat(options.skew),
                  model.name + " has no experts; leave it out");
  }
  if (options.redundant_experts > 0) {
    return Refuse("--redundant-experts", absl::StrCat(options.redundant_experts),
                  model.name + " has no experts; leave it out");
  }
  return absl::OkStatus();
}

absl::StatusOr<int> FindNode(const ClusterTopology& cluster, const std::string& name) {
  std::vector<std::string> names;
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    if (cluster.nodes[i].name == name) return static_cast<int>(i);
    names.push_back(cluster.nodes[i].name);
  }
  const std::string near = NearestName(name, names);
  return Refuse("--lose", name,
                absl::StrCat("the cluster has no such node; its nodes are ", names.front(),
                             names.size() > 1 ? absl::StrCat(" to ", names.back()) : "",
                             near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?")));
}

// Runs what the scenarios share.
class Forecaster {
 public:
  Forecaster(const SimulateOptions& options, const PlanInputs& inputs)
      : options_(options), inputs_(inputs) {
    const ModelDims& model = inputs.search.model;
    load_ = inputs.load;
    if (options.skew > 0) {
      load_ = SyntheticLoad(model.MoeLayers(), model.experts, options.skew, options.seed);
    }
  }

  bool HasLoad() const { return load_.layers() > 0; }
  LoadProfile LoadOrEven() const {
    const ModelDims& model = inputs_.search.model;
    return HasLoad() ? load_ : SyntheticLoad(model.MoeLayers(), model.experts, 0, options_.seed);
  }

  // Searches on `cluster`; a given grid that no longer fits it gives way to the search.
  absl::StatusOr<PlanDocument> PlanOn(const ClusterTopology& cluster) const {
    PlanInputs inputs = inputs_;
    inputs.load = LoadProfile();
    inputs.search.runners_up = 0;
    if (cluster != inputs.search.cluster) {
      inputs.search.cluster = cluster;
      if (inputs.search.spec && inputs.search.spec->WorkerCount() > cluster.DeviceCount()) {
        inputs.search.spec.reset();
      }
    }
    return MakePlanDocument(inputs);
  }

  // Forecasts a plan with neighbours in blocks, or as `maps` say.
  absl::StatusOr<Scenario> Run(std::string name, const PlanDocument& plan,
                               std::vector<LayerExperts> maps) const {
    Scenario scenario;
    scenario.name = std::move(name);
    scenario.plan = plan;
    const PricedPlan& best = plan.result.best;
    const RequestMix& mix = plan.inputs.search.mix;
    scenario.sequences = best.concurrency / best.steps_in_flight;
    SimulateInput input;
    input.model = plan.inputs.search.model;
    input.cluster = plan.inputs.search.cluster;
    input.candidate = best.candidate;
    input.load = DecodeLoad(scenario.sequences, mix.prompt_tokens + mix.output_tokens / 2);
    input.experts = load_;
    input.maps = std::move(maps);
    input.steps = options_.steps;
    input.seed = options_.seed;
    ASSIGN_OR_RETURN(scenario.forecast, Simulate(input));
    return scenario;
  }

  // Experts balanced for the load, with `redundant` slots more for each rank and layer.
  absl::StatusOr<std::vector<LayerExperts>> Balance(const PlanDocument& plan, int redundant) const {
    const LoadProfile load = LoadOrEven();
    const std::vector<LayerExperts> none;
    ASSIGN_OR_RETURN(ReplanResult replanned, ReplanExperts({.model = plan.inputs.search.model,
                                                            .cluster = plan.inputs.search.cluster,
                                                            .candidate = plan.result.best.candidate,
                                                            .experts = load,
                                                            .redundant_slots = redundant,
                                                            .current = none}));
    return std::move(replanned.maps);
  }

  // The copies must fit beside weights and KV.
  absl::Status CheckCopies(const PlanDocument& plan, int slots) const {
    const SearchInput& search = plan.inputs.search;
    const PricedPlan& best = plan.result.best;
    Candidate larger = best.candidate;
    const double share = static_cast<double>(slots) / search.model.experts / larger.spec.slices;
    for (double& rank : larger.expert_shares) rank = std::min(1.0, rank + share);
    const absl::Status fits =
        CheckFits(search.model, search.cluster, larger,
                  best.concurrency * (search.mix.prompt_tokens + search.mix.output_tokens),
                  StepTokens(plan.inputs, best));
    if (fits.ok()) return fits;
    return absl::Status(
        fits.code(),
        absl::StrCat("--redundant-experts ", options_.redundant_experts, ": ", fits.message()));
  }

 private:
  const SimulateOptions& options_;
  const PlanInputs& inputs_;
  LoadProfile load_;
};

absl::StatusOr<Scenario> RunOtherCluster(const Forecaster& forecaster, const std::string& name,
                                         const PlanDocument& planned,
                                         const ClusterTopology& cluster) {
  const absl::StatusOr<PlanDocument> plan = forecaster.PlanOn(cluster);
  if (!plan.ok()) return WithContext(plan.status(), name);
  std::vector<LayerExperts> maps;
  if (forecaster.HasLoad()) {
    ASSIGN_OR_RETURN(maps, forecaster.Balance(*plan, 0));
  }
  ASSIGN_OR_RETURN(Scenario scenario, forecaster.Run(name, *plan, std::move(maps)));
  ASSIGN_OR_RETURN(scenario.change, DiffPlans(planned, *plan));
  return scenario;
}

// The figures, and below them the grid where it is not `first`'s.
std::string ScenarioLine(const Scenario& scenario, const Scenario& first) {
  const SimulateResult& f = scenario.forecast;
  std::string out =
      absl::StrFormat("  %-24s %9s %9s %9s %9s %7.2f\n", scenario.name, TimeText(f.p50_seconds),
                      TimeText(f.p95_seconds), TimeText(f.p99_seconds),
                      CountText(std::round(f.tokens_per_second)), f.imbalance_mean);
  const Candidate& candidate = scenario.plan.result.best.candidate;
  if (candidate.spec == first.plan.result.best.candidate.spec) return out;
  return absl::StrCat(out, "    ", GridText(candidate.spec), ", ", ScheduleName(candidate.schedule),
                      " exchange\n");
}

json::object ForecastToJson(const SimulateResult& result) {
  json::object out;
  out["mean_seconds"] = result.mean_seconds;
  out["p50_seconds"] = result.p50_seconds;
  out["p95_seconds"] = result.p95_seconds;
  out["p99_seconds"] = result.p99_seconds;
  out["max_seconds"] = result.max_seconds;
  out["tokens_per_second"] = result.tokens_per_second;
  out["imbalance_mean"] = result.imbalance_mean;
  out["imbalance_max"] = result.imbalance_max;
  json::array links;
  for (const LinkUse& link : result.links) {
    links.push_back(json::object{{"from", Text(link.from)},
                                 {"to", Text(link.to)},
                                 {"class", Text(LinkClassName(link.link))},
                                 {"bytes_per_step", link.bytes_per_step},
                                 {"busy_share", link.busy_share}});
  }
  out["links"] = std::move(links);
  out["step_seconds"] = json::array(result.step_seconds.begin(), result.step_seconds.end());
  return out;
}

std::string RenderBusiest(const std::vector<LinkUse>& links, const TextStyle& style) {
  constexpr size_t kShown = 8;
  std::string out = absl::StrCat("\n", Bold(style, "BUSIEST LINKS OF THE PLAN"), "\n");
  if (links.empty()) return out + "  Nothing crosses a link.\n";
  for (size_t i = 0; i < links.size() && i < kShown; ++i) {
    const LinkUse& link = links[i];
    absl::StrAppendFormat(&out, "  %-44s %-8s %9s a step %5.1f %% busy\n",
                          absl::StrCat(link.from, " -> ", link.to),
                          std::string(LinkClassName(link.link)), BytesText(link.bytes_per_step),
                          100 * link.busy_share);
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<Scenario>> ForecastScenarios(const SimulateOptions& options,
                                                        const PlanInputs& inputs) {
  RETURN_IF_ERROR(CheckOptions(options, inputs.search.model));
  const ClusterTopology& cluster = inputs.search.cluster;
  int lost = -1;
  if (!options.lost_node.empty()) {
    ASSIGN_OR_RETURN(lost, FindNode(cluster, options.lost_node));
    if (cluster.nodes.size() == 1) {
      return Refuse("--lose", options.lost_node, "it is the only node; give a larger --cluster");
    }
  }
  const Forecaster forecaster(options, inputs);
  ASSIGN_OR_RETURN(const PlanDocument planned, forecaster.PlanOn(cluster));
  std::vector<Scenario> scenarios;
  ASSIGN_OR_RETURN(Scenario first, forecaster.Run("as planned", planned, {}));
  scenarios.push_back(std::move(first));
  if (forecaster.HasLoad()) {
    ASSIGN_OR_RETURN(std::vector<LayerExperts> maps, forecaster.Balance(planned, 0));
    ASSIGN_OR_RETURN(Scenario balanced,
                     forecaster.Run("experts balanced", planned, std::move(maps)));
    scenarios.push_back(std::move(balanced));
  }
  if (options.redundant_experts > 0) {
    const int groups = std::max(1, planned.result.best.candidate.spec.ep);
    const int slots = (options.redundant_experts + groups - 1) / groups;
    RETURN_IF_ERROR(forecaster.CheckCopies(planned, slots));
    ASSIGN_OR_RETURN(std::vector<LayerExperts> maps, forecaster.Balance(planned, slots));
    ASSIGN_OR_RETURN(Scenario copied, forecaster.Run(absl::StrCat(slots * groups, " copies more"),
                                                     planned, std::move(maps)));
    scenarios.push_back(std::move(copied));
  }
  if (lost >= 0) {
    ASSIGN_OR_RETURN(const ClusterTopology smaller, WithoutNode(cluster, lost));
    ASSIGN_OR_RETURN(
        Scenario scenario,
        RunOtherCluster(forecaster, absl::StrCat("without ", options.lost_node), planned, smaller));
    scenarios.push_back(std::move(scenario));
  }
  if (options.added_nodes > 0) {
    const int like = static_cast<int>(cluster.nodes.size()) - 1;
    ASSIGN_OR_RETURN(const ClusterTopology larger, WithNodes(cluster, like, options.added_nodes));
    const std::string name =
        absl::StrCat(options.added_nodes, " more ", options.added_nodes == 1 ? "node" : "nodes");
    ASSIGN_OR_RETURN(Scenario scenario, RunOtherCluster(forecaster, name, planned, larger));
    scenarios.push_back(std::move(scenario));
  }
  return scenarios;
}

std::string RenderScenarios(const std::vector<Scenario>& scenarios, const TextStyle& style) {
  const Scenario& first = scenarios.front();
  std::string out = RenderVerdict(first.plan, style);
  out += absl::StrCat(
      "\n",
      Bold(style, absl::StrFormat("DECODE STEPS OF %s SEQUENCES, %d DRAWN",
                                  CountText(first.sequences), first.forecast.step_seconds.size())),
      "\n");
  absl::StrAppendFormat(&out, "  %-24s %9s %9s %9s %9s %7s\n", "", "P50", "P95", "P99", "TOKENS/S",
                        "UNEVEN");
  for (const Scenario& scenario : scenarios) out += ScenarioLine(scenario, first);
  out +=
      WrapText(absl::StrFormat(
                   "UNEVEN: rows of a layer's busiest rank over the mean; at most %.2f as "
                   "planned. The cost model expects a step of %s.",
                   first.forecast.imbalance_max, TimeText(first.plan.result.best.decode.seconds)),
               style.columns, 2);
  out += RenderBusiest(first.forecast.links, style);
  for (const Scenario& scenario : scenarios) {
    if (!scenario.change) continue;
    absl::StrAppend(&out, "\n", Bold(style, absl::StrCat("FROM AS PLANNED TO ", scenario.name)),
                    "\n", RenderDiff(*scenario.change, style));
  }
  return out;
}

json::object ScenariosToJson(const std::vector<Scenario>& scenarios) {
  json::object out;
  json::array list;
  for (const Scenario& scenario : scenarios) {
    json::object entry;
    const PricedPlan& best = scenario.plan.result.best;
    entry["name"] = Text(scenario.name);
    entry["model"] = Text(scenario.plan.inputs.search.model.name);
    entry["grid"] = Text(best.candidate.spec.ToString());
    entry["exchange"] = Text(ScheduleName(best.candidate.schedule));
    entry["devices"] = best.devices;
    entry["sequences"] = scenario.sequences;
    entry["expected_seconds"] = best.decode.seconds;
    entry["forecast"] = ForecastToJson(scenario.forecast);
    if (scenario.change) entry["change"] = DiffToJson(*scenario.change);
    list.push_back(std::move(entry));
  }
  out["scenarios"] = std::move(list);
  return out;
}

absl::Status RunSimulate(const SimulateOptions& options) {
  ASSIGN_OR_RETURN(const PlanInputs inputs, MakePlanInputs(options.question));
  ASSIGN_OR_RETURN(const std::vector<Scenario> scenarios, ForecastScenarios(options, inputs));
  std::cout << (options.json ? PrettyJson(ScenariosToJson(scenarios))
                             : RenderScenarios(scenarios, StdoutStyle()));
  return absl::OkStatus();
}

}  // namespace conclave
