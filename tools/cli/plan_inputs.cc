#include "tools/cli/plan_inputs.h"

#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "comm/base/status.h"
#include "coordinator/model_config/json_fields.h"
#include "tools/cli/exact_json.h"

namespace conclave {
namespace {

namespace json = boost::json;

constexpr size_t kFileBytesMax = 4 << 20;
constexpr size_t kTraceBytesMax = 256 << 20;

absl::Status Refuse(absl::string_view flag, absl::string_view value, absl::string_view remedy) {
  return absl::InvalidArgumentError(absl::StrCat(flag, " '", value, "': ", remedy));
}

// The text of a file that `flag` names; an absent one is a usage error.
absl::StatusOr<std::string> ReadFlagFile(const std::string& flag, const std::string& path,
                                         size_t bytes_max) {
  absl::StatusOr<std::string> text = ReadTextFile(path, bytes_max);
  if (text.ok()) return text;
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", text.status().message()));
}

// The name of a profile that BuiltinCluster does not know, with the nearest that it does.
std::string ClusterHint(const std::string& spec) {
  for (const absl::string_view part : absl::StrSplit(spec, ',')) {
    const std::pair<absl::string_view, absl::string_view> name_count =
        absl::StrSplit(part, absl::MaxSplits(':', 1));
    if (BuiltinProfile(name_count.first).ok()) continue;
    const std::string near = NearestName(name_count.first, BuiltinProfileNames());
    if (!near.empty()) return absl::StrCat("; did you mean '", near, "'?");
  }
  return "";
}

absl::StatusOr<ClusterTopology> LoadCluster(const std::string& cluster) {
  std::error_code error;
  const bool named_file = absl::EndsWith(cluster, ".yaml") || absl::EndsWith(cluster, ".yml") ||
                          absl::StrContains(cluster, '/');
  if (named_file || std::filesystem::is_regular_file(cluster, error)) {
    ASSIGN_OR_RETURN(const std::string text, ReadFlagFile("--cluster", cluster, kFileBytesMax));
    return ParseCluster(text, cluster);
  }
  absl::StatusOr<ClusterTopology> built = BuiltinCluster(cluster);
  if (built.ok()) return built;
  return absl::InvalidArgumentError(
      absl::StrCat("--cluster '", cluster, "': ", built.status().message(), ClusterHint(cluster)));
}

// Puts a measured profile in the place of the cluster's profile of that name.
absl::Status UseMeasuredProfile(const std::string& path, ClusterTopology* cluster) {
  ASSIGN_OR_RETURN(const MeasuredHardware measured, ReadMeasuredHardware("--profile", path));
  const absl::Status replaced = ReplaceProfile(measured, cluster);
  if (replaced.ok()) return replaced;
  return Refuse("--profile", path, replaced.message());
}

absl::StatusOr<double> ReadCount(const json::value& value) {
  double count = -1;
  if (value.is_double()) count = value.get_double();
  if (value.is_int64()) count = static_cast<double>(value.get_int64());
  if (std::isfinite(count) && count >= 0 && count < 1e18) return count;
  return absl::InvalidArgumentError("give a number of tokens, 0 or more");
}

}  // namespace

absl::StatusOr<MeasuredHardware> ReadMeasuredHardware(const std::string& flag,
                                                      const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFlagFile(flag, path, kFileBytesMax));
  return ParseMeasuredHardware(text, path);
}

absl::StatusOr<double> ParseSeconds(const std::string& flag, const std::string& text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789.eE+-"), text.size());
  const std::string unit = text.substr(digits);
  const double scale = unit.empty() || unit == "s" ? 1
                       : unit == "ms"              ? 1e-3
                       : unit == "us"              ? 1e-6
                                                   : 0;
  double number = 0;
  if (scale == 0 || !absl::SimpleAtod(text.substr(0, digits), &number) || !std::isfinite(number) ||
      number <= 0 || number > 1e6) {
    return Refuse(flag, text, "it is no time; write for example 250ms, 2s or 0.25 (seconds)");
  }
  return number * scale;
}

absl::StatusOr<std::optional<ScheduleKind>> ParseSchedule(const std::string& flag,
                                                          const std::string& text) {
  if (text == "auto") return std::optional<ScheduleKind>();
  for (const auto kind : {ScheduleKind::kNaive, ScheduleKind::kPcc, ScheduleKind::kTwoLevel}) {
    if (text == ScheduleName(kind)) return std::optional<ScheduleKind>(kind);
  }
  return Refuse(flag, text, "use auto, naive, pcc or two-level");
}

absl::StatusOr<ParallelSpec> ResolvePlanSpec(ParallelSpec spec, const ModelDims& model,
                                             int devices) {
  const int64_t workers = int64_t{spec.tp} * spec.dp * spec.pp;
  if (workers > devices) {
    return Refuse("--parallel", spec.ToString(),
                  absl::StrCat("it needs ", workers, " devices, the cluster has ", devices,
                               "; lower tp, dp or pp, or give a larger --cluster"));
  }
  if (!model.IsMoe()) {
    if (spec.slices != 1) {
      return Refuse("--parallel", spec.ToString(),
                    absl::StrCat(model.name, " has no experts to cut; leave slices out"));
    }
    spec.ep = 0;
  } else {
    if (spec.StageSize() % spec.slices != 0) {
      return Refuse("--parallel", spec.ToString(),
                    absl::StrCat("slices must divide tp * dp, ", spec.StageSize()));
    }
    const int ep = spec.StageSize() / spec.slices;
    if (spec.ep != 0 && spec.ep != ep) {
      return Refuse("--parallel", spec.ToString(),
                    absl::StrCat("ep is tp * dp / slices, ", ep, "; leave ep out"));
    }
    spec.ep = ep;
  }
  const absl::Status fits = CheckGrid(model, spec);
  if (!fits.ok()) return Refuse("--parallel", spec.ToString(), fits.message());
  return spec;
}

absl::StatusOr<LoadProfile> ParseLoadTrace(const std::string& text, const std::string& context,
                                           const ModelDims& model) {
  ASSIGN_OR_RETURN(const json::value root, ParseExactJson(text, context));
  const json::value* counts = root.is_object() ? root.get_object().if_contains("counts") : &root;
  if (counts == nullptr || !counts->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(
        context, ": key 'counts' is missing; give a list of token counts for each MoE layer"));
  }
  if (!model.IsMoe()) {
    return absl::InvalidArgumentError(
        absl::StrCat(context, ": ", model.name, " has no experts; leave --trace out"));
  }
  const json::array& rows = counts->get_array();
  const int moe_layers = model.MoeLayers();
  const bool all_layers = static_cast<int>(rows.size()) == model.layers;
  if (!all_layers && static_cast<int>(rows.size()) != moe_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat(context, ": 'counts' has ", rows.size(), " rows; give ", moe_layers,
                     ", one for each MoE layer, or ", model.layers, ", one for each layer"));
  }
  LoadProfile load(moe_layers, model.experts);
  int layer = 0;
  for (size_t row = 0; row < rows.size(); ++row) {
    if (all_layers && !model.moe_layers[row]) continue;
    const json::array* cells = rows[row].if_array();
    if (cells == nullptr || static_cast<int>(cells->size()) != model.experts) {
      return absl::InvalidArgumentError(absl::StrCat(context, ": row ", row, " of 'counts' is ",
                                                     JsonExcerpt(rows[row]), "; give ",
                                                     model.experts, " counts, one an expert"));
    }
    for (int expert = 0; expert < model.experts; ++expert) {
      const absl::StatusOr<double> count = ReadCount((*cells)[expert]);
      if (!count.ok()) {
        return absl::InvalidArgumentError(absl::StrCat(context, ": row ", row, ", expert ", expert,
                                                       " is ", JsonExcerpt((*cells)[expert]), "; ",
                                                       count.status().message()));
      }
      load.Add(layer, expert, *count);
    }
    ++layer;
  }
  return load;
}

absl::StatusOr<PlanInputs> MakePlanInputs(const PlanQuestion& question) {
  PlanInputs inputs;
  SearchInput& search = inputs.search;
  ASSIGN_OR_RETURN(search.model, LoadPlanModel(question.model, question.formats));
  ASSIGN_OR_RETURN(search.cluster, LoadCluster(question.cluster));
  if (!question.profile_path.empty()) {
    RETURN_IF_ERROR(UseMeasuredProfile(question.profile_path, &search.cluster));
  }
  const absl::StatusOr<Objective> objective = ParseObjective(question.objective);
  if (!objective.ok()) {
    return Refuse("--objective", question.objective, "use latency, throughput or cost");
  }
  search.objective = *objective;
  search.mix.concurrency = question.concurrency;
  search.mix.prompt_tokens = question.input_tokens;
  search.mix.output_tokens = question.output_tokens;
  if (!question.ttft.empty()) {
    ASSIGN_OR_RETURN(search.ttft_seconds, ParseSeconds("--ttft", question.ttft));
  }
  if (!question.tpot.empty()) {
    ASSIGN_OR_RETURN(search.tpot_seconds, ParseSeconds("--tpot", question.tpot));
  }
  if (!question.parallel.empty()) {
    const absl::StatusOr<ParallelSpec> spec = ParseParallelSpec(question.parallel);
    if (!spec.ok()) return WithContext(spec.status(), "--parallel");
    ASSIGN_OR_RETURN(search.spec,
                     ResolvePlanSpec(*spec, search.model, search.cluster.DeviceCount()));
  }
  ASSIGN_OR_RETURN(search.schedule, ParseSchedule("--exchange", question.exchange));
  search.runners_up = question.runners_up;
  if (!question.trace_path.empty()) {
    ASSIGN_OR_RETURN(const std::string text,
                     ReadFlagFile("--trace", question.trace_path, kTraceBytesMax));
    ASSIGN_OR_RETURN(inputs.load, ParseLoadTrace(text, question.trace_path, search.model));
  }
  return inputs;
}

}  // namespace conclave
