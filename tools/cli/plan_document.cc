#include "tools/cli/plan_document.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "tools/cli/exact_json.h"
#include "tools/cli/plan_inputs_json.h"

namespace conclave {
namespace {

namespace json = boost::json;

constexpr char kFormat[] = "conclave-plan";
constexpr IntRange kIndex = {0, 1 << 24};

json::string Text(absl::string_view text) { return json::string(text.data(), text.size()); }

json::object CandidateToJson(const Candidate& candidate) {
  json::object out;
  out["grid"] = Text(candidate.spec.ToString());
  out["parallel"] = SpecToJson(candidate.spec);
  out["exchange"] = Text(ScheduleName(candidate.schedule));
  out["devices"] = json::array(candidate.devices.begin(), candidate.devices.end());
  json::array stages;
  for (const LayerRange& stage : candidate.stages) {
    stages.push_back(json::array{stage.begin, stage.end});
  }
  out["stages"] = std::move(stages);
  out["token_shares"] = NumbersToJson(candidate.token_shares);
  out["expert_shares"] = NumbersToJson(candidate.expert_shares);
  return out;
}

json::object StepToJson(const StepCost& step) {
  json::object out;
  out["seconds"] = step.seconds;
  out["interval_seconds"] = step.interval_seconds;
  json::object kinds;
  for (int kind = 0; kind < kCostKinds; ++kind) {
    const absl::string_view name = CostKindName(static_cast<CostKind>(kind));
    kinds[json::string_view(name.data(), name.size())] = step.seconds_by_kind[kind];
  }
  out["seconds_by_kind"] = std::move(kinds);
  out["binding"] = Text(CostKindName(step.binding));
  out["bound"] = Text(BoundName(step.bound));
  out["slowest_rank"] = step.slowest_rank;
  out["effective_bandwidth"] = step.effective_bandwidth;
  out["bandwidth_share"] = step.bandwidth_share;
  return out;
}

json::object LinksToJson(const std::vector<RankCost>& ranks) {
  json::object links;
  for (int link = 0; link < 3; ++link) {
    double bytes = 0;
    double messages = 0;
    for (const RankCost& rank : ranks) {
      bytes += rank.link_bytes[link];
      messages += rank.link_messages[link];
    }
    const absl::string_view name = LinkClassName(static_cast<LinkClass>(link));
    links[json::string_view(name.data(), name.size())] =
        json::object{{"bytes", bytes}, {"messages", messages}};
  }
  return links;
}

json::object PricedToJson(const SearchInput& search, const PricedPlan& plan) {
  json::object out;
  out["candidate"] = CandidateToJson(plan.candidate);
  out["devices"] = plan.devices;
  out["concurrency"] = plan.concurrency;
  out["tpot_seconds"] = plan.tpot_seconds;
  out["ttft_seconds"] = plan.ttft_seconds;
  out["tokens_per_second"] = plan.tokens_per_second;
  out["cost_per_million_tokens"] = plan.cost_per_million_tokens;
  out["sequences_max"] = plan.sequences_max;
  out["steps_in_flight"] = plan.steps_in_flight;
  out["note"] = Text(plan.note);
  out["decode"] = StepToJson(plan.decode);
  out["decode_links"] = LinksToJson(WithHandOvers(search, plan));
  out["prefill"] = StepToJson(plan.prefill);
  return out;
}

json::object ResultToJson(const SearchInput& search, const SearchResult& result) {
  json::object out;
  out["reason"] = Text(result.reason);
  out["best"] = PricedToJson(search, result.best);
  json::array others;
  for (const PricedPlan& plan : result.runners_up) others.push_back(PricedToJson(search, plan));
  out["runners_up"] = std::move(others);
  out["candidates"] = result.candidates;
  out["too_large"] = result.too_large;
  out["slo_missed"] = result.slo_missed;
  return out;
}

// Owners of each unit: a rank, or a list of ranks.
json::array OwnersToJson(const LayerExperts& layer) {
  json::array out;
  for (int expert = 0; expert < layer.experts(); ++expert) {
    for (int slice = 0; slice < layer.slices(); ++slice) {
      const auto owners = layer.Owners({expert, slice});
      if (owners.size() == 1) {
        out.push_back(owners[0]);
      } else {
        out.push_back(json::array(owners.begin(), owners.end()));
      }
    }
  }
  return out;
}

// Runs of layers with one map.
json::object ExpertsToJson(const PlacedExperts& placed) {
  json::object out;
  out["makespan_in_blocks"] = placed.makespan_in_blocks;
  out["makespan"] = placed.makespan;
  out["makespan_max"] = placed.makespan_max;
  json::array runs;
  const std::vector<LayerExperts>& layers = placed.map.layers;
  for (size_t first = 0; first < layers.size();) {
    size_t end = first + 1;
    while (end < layers.size() && layers[end] == layers[first]) ++end;
    if (layers[first].experts() > 0) {
      json::object run;
      run["layers"] = json::array{first, end - 1};
      run["slices"] = layers[first].slices();
      run["owners"] = OwnersToJson(layers[first]);
      runs.push_back(std::move(run));
    }
    first = end;
  }
  out["runs"] = std::move(runs);
  return out;
}

absl::StatusOr<std::vector<LayerRange>> StagesFromJson(const JsonFields& fields) {
  ASSIGN_OR_RETURN(const json::array* items, fields.ArrayOrNull("stages"));
  std::vector<LayerRange> stages;
  for (size_t i = 0; items != nullptr && i < items->size(); ++i) {
    const json::array* pair = (*items)[i].if_array();
    json::object cell;
    if (pair != nullptr && pair->size() == 2) cell = {{"begin", (*pair)[0]}, {"end", (*pair)[1]}};
    const JsonFields range(cell, absl::StrCat(fields.context(), ": stages ", i));
    ASSIGN_OR_RETURN(const int64_t begin, range.Int("begin", kIndex));
    ASSIGN_OR_RETURN(const int64_t end, range.Int("end", kIndex));
    stages.push_back({static_cast<int>(begin), static_cast<int>(end)});
  }
  return stages;
}

absl::StatusOr<Candidate> CandidateFromJson(const JsonFields& fields) {
  Candidate candidate;
  ASSIGN_OR_RETURN(const json::object* spec, fields.ObjectOrNull("parallel"));
  if (spec == nullptr) return fields.Refuse("parallel", "give the grid");
  ASSIGN_OR_RETURN(candidate.spec,
                   SpecFromJson(JsonFields(*spec, absl::StrCat(fields.context(), ": parallel"))));
  ASSIGN_OR_RETURN(const std::string exchange, fields.String("exchange"));
  ASSIGN_OR_RETURN(const std::optional<ScheduleKind> schedule, ParseSchedule("exchange", exchange));
  if (!schedule) return fields.Refuse("exchange", "use naive, pcc or two-level");
  candidate.schedule = *schedule;
  ASSIGN_OR_RETURN(const std::vector<int64_t> devices, fields.IntList("devices", kIndex));
  candidate.devices.assign(devices.begin(), devices.end());
  ASSIGN_OR_RETURN(candidate.stages, StagesFromJson(fields));
  ASSIGN_OR_RETURN(candidate.token_shares, NumbersFromJson(fields, "token_shares"));
  ASSIGN_OR_RETURN(candidate.expert_shares, NumbersFromJson(fields, "expert_shares"));
  return candidate;
}

absl::StatusOr<LayerExperts> OwnersFromJson(const JsonFields& run, const ModelDims& model,
                                            const ParallelSpec& spec) {
  ASSIGN_OR_RETURN(const int64_t slices, run.Int("slices", {1, spec.slices}));
  ASSIGN_OR_RETURN(const json::array* items, run.ArrayOrNull("owners"));
  const int64_t units = model.experts * slices;
  if (items == nullptr || static_cast<int64_t>(items->size()) != units) {
    return run.Refuse("owners", absl::StrCat("give ", units, " entries, one a slice of an expert"));
  }
  std::vector<std::vector<int32_t>> owners(units);
  for (int64_t unit = 0; unit < units; ++unit) {
    json::object cell;
    cell["owners"] = (*items)[unit];
    const JsonFields one(cell, absl::StrCat(run.context(), ": owners ", unit));
    ASSIGN_OR_RETURN(const std::vector<int64_t> ranks,
                     one.IntList("owners", {0, spec.StageSize() - 1}));
    owners[unit].assign(ranks.begin(), ranks.end());
    const bool ascending = std::is_sorted(ranks.begin(), ranks.end()) &&
                           std::adjacent_find(ranks.begin(), ranks.end()) == ranks.end();
    if (ranks.empty() || !ascending)
      return one.Refuse("owners", "give ascending ranks, one or more");
  }
  return LayerExperts(static_cast<int>(slices), owners);
}

absl::StatusOr<ExpertMap> ExpertsFromJson(const JsonFields& fields, const ModelDims& model,
                                          const ParallelSpec& spec) {
  ExpertMap map;
  map.layers.resize(model.layers);
  ASSIGN_OR_RETURN(const json::array* runs, fields.ArrayOrNull("runs"));
  for (size_t i = 0; runs != nullptr && i < runs->size(); ++i) {
    const json::object* object = (*runs)[i].if_object();
    if (object == nullptr) return fields.Refuse("runs", "every entry: give an object");
    const JsonFields run(*object, absl::StrCat(fields.context(), ": runs ", i));
    ASSIGN_OR_RETURN(const std::vector<int64_t> range,
                     run.IntList("layers", {0, model.layers - 1}));
    if (range.size() != 2 || range[0] > range[1]) {
      return run.Refuse("layers", "give the first and the last layer");
    }
    ASSIGN_OR_RETURN(const LayerExperts layer, OwnersFromJson(run, model, spec));
    for (int64_t l = range[0]; l <= range[1]; ++l) map.layers[l] = layer;
  }
  for (int layer = 0; layer < model.layers; ++layer) {
    if (model.moe_layers[layer] != (map.layers[layer].experts() > 0)) {
      return fields.Refuse("runs", absl::StrCat("layer ", layer,
                                                " must be there exactly when it "
                                                "is in the model's moe_layers"));
    }
  }
  return map;
}

// An object of a path of keys, or an error that names the first that is absent.
absl::StatusOr<const json::object*> Descend(const JsonFields& root,
                                            std::initializer_list<const char*> keys) {
  const json::object* object = nullptr;
  std::string context = root.context();
  for (const char* key : keys) {
    const json::object* inner = nullptr;
    if (object == nullptr) {
      ASSIGN_OR_RETURN(inner, root.ObjectOrNull(key));
    } else {
      ASSIGN_OR_RETURN(inner, JsonFields(*object, context).ObjectOrNull(key));
    }
    absl::StrAppend(&context, ": ", key);
    if (inner == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(context, " is missing; give a file that `conclave plan --output` wrote"));
    }
    object = inner;
  }
  return object;
}

}  // namespace

absl::StatusOr<PlanDocument> MakePlanDocument(const PlanInputs& inputs) {
  PlanDocument document;
  document.inputs = inputs;
  ASSIGN_OR_RETURN(document.result, SearchPlan(inputs.search));
  const SearchInput& search = inputs.search;
  ASSIGN_OR_RETURN(document.experts, PlaceExperts(search.model, search.cluster,
                                                  document.result.best.candidate, inputs.load));
  return document;
}

std::vector<RankCost> WithHandOvers(const SearchInput& search, const PricedPlan& plan) {
  std::vector<RankCost> ranks = plan.decode.ranks;
  const Candidate& candidate = plan.candidate;
  const int size = candidate.spec.StageSize();
  const double tokens = plan.concurrency / std::max(1, plan.steps_in_flight);
  for (size_t rank = 0; rank + size < ranks.size(); ++rank) {
    const int dp = candidate.spec.PositionOf(static_cast<int>(rank)).dp;
    const LinkClass link =
        search.cluster.LinkBetween(candidate.devices[rank], candidate.devices[rank + size]);
    ranks[rank].link_bytes[static_cast<int>(link)] += tokens * candidate.token_shares[dp] *
                                                      search.model.hidden *
                                                      NumberFormatBytes(search.model.activation);
    ranks[rank].link_messages[static_cast<int>(link)] += 1;
  }
  return ranks;
}

std::string WritePlanDocument(const PlanDocument& document) {
  json::object out;
  out["format"] = kFormat;
  out["version"] = kPlanFormatVersion;
  out["inputs"] = InputsToJson(document.inputs);
  out["result"] = ResultToJson(document.inputs.search, document.result);
  out["experts"] = ExpertsToJson(document.experts);
  return PrettyJson(out);
}

absl::StatusOr<SavedPlan> ReadPlanDocument(absl::string_view text, absl::string_view context) {
  ASSIGN_OR_RETURN(const json::value value, ParseExactJson(text, context));
  const json::object none;
  const bool object = value.is_object();
  const JsonFields root(object ? value.get_object() : none, std::string(context));
  const absl::StatusOr<std::string> format = root.StringOr("format", "");
  if (!format.ok() || *format != kFormat) {
    return root.Refuse("format", "give a file that `conclave plan --output` wrote");
  }
  ASSIGN_OR_RETURN(const int64_t version, root.Int("version", {0, 1 << 20}));
  if (version != kPlanFormatVersion) {
    return root.Refuse(
        "version", absl::StrCat("this program reads version ", kPlanFormatVersion, "; plan again"));
  }
  SavedPlan saved;
  ASSIGN_OR_RETURN(const json::object* inputs, Descend(root, {"inputs"}));
  ASSIGN_OR_RETURN(saved.inputs,
                   InputsFromJson(JsonFields(*inputs, absl::StrCat(context, ": inputs"))));
  ASSIGN_OR_RETURN(const json::object* candidate, Descend(root, {"result", "best", "candidate"}));
  ASSIGN_OR_RETURN(saved.chosen,
                   CandidateFromJson(JsonFields(*candidate, absl::StrCat(context, ": candidate"))));
  ASSIGN_OR_RETURN(const json::object* experts, Descend(root, {"experts"}));
  ASSIGN_OR_RETURN(saved.experts,
                   ExpertsFromJson(JsonFields(*experts, absl::StrCat(context, ": experts")),
                                   saved.inputs.search.model, saved.chosen.spec));
  return saved;
}

absl::StatusOr<PlanDocument> PriceSavedPlan(const SavedPlan& saved) {
  PlanDocument document;
  document.inputs = saved.inputs;
  ASSIGN_OR_RETURN(document.result.best, PricePlan(saved.inputs.search, saved.chosen));
  document.experts.map = saved.experts;
  return document;
}

}  // namespace conclave
