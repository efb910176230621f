#include "comm/types/parallel_spec.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "comm/base/reduction.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

constexpr int kDegreeMax = 65536;

absl::Status Refuse(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("--parallel: ", message));
}

// Width `size` called `what` must fall into `ways` equal parts made of whole reduction slices.
absl::Status CheckDivides(int64_t size, int ways, const char* degree, const char* what) {
  if (ReductionDivides(size, ways)) return absl::OkStatus();
  return Refuse(absl::StrFormat("%s=%d does not divide the model's %s of %d; use a %s that does",
                                degree, ways, what, size, degree));
}

absl::Status CheckDense(const ParallelSpec& spec, const ModelShape& shape) {
  if (spec.slices > 1) {
    return Refuse(absl::StrFormat(
        "slices=%d does not apply: %s is a dense model without experts; leave slices out",
        spec.slices, std::string(ArchitectureName(shape.architecture))));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> ResolveExpertGroups(const ParallelSpec& spec, const ModelShape& shape) {
  RETURN_IF_ERROR(CheckDivides(shape.moe.ffn, spec.slices, "slices", "expert intermediate size"));
  const int stage = spec.StageSize();
  if (stage % spec.slices != 0) {
    return Refuse(absl::StrFormat(
        "slices=%d does not divide the %d workers of a stage (tp * dp); use slices that do",
        spec.slices, stage));
  }
  const int groups = stage / spec.slices;
  if (spec.ep != 0 && spec.ep != groups) {
    return Refuse(absl::StrFormat(
        "ep=%d contradicts tp * dp / slices = %d: experts are spread over all workers of a stage; "
        "leave ep out or set it to %d",
        spec.ep, groups, groups));
  }
  if (groups > shape.moe.experts) {
    return Refuse(absl::StrFormat(
        "more workers than work: %d expert groups (tp * dp / slices) for %d experts; use fewer "
        "workers or more slices",
        groups, shape.moe.experts));
  }
  return groups;
}

}  // namespace

std::string ParallelSpec::ToString() const {
  std::string text = absl::StrFormat("tp=%d,dp=%d,pp=%d", tp, dp, pp);
  if (ep > 0) absl::StrAppendFormat(&text, ",ep=%d", ep);
  if (slices > 1) absl::StrAppendFormat(&text, ",slices=%d", slices);
  return text;
}

absl::StatusOr<ParallelSpec> ParseParallelSpec(absl::string_view text) {
  ParallelSpec spec;
  std::string seen;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<std::string, std::string> item = absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::string key(absl::StripAsciiWhitespace(item.first));
    int value = 0;
    if (!absl::SimpleAtoi(item.second, &value) || value < 1 || value > kDegreeMax) {
      return Refuse(
          absl::StrFormat("'%s' is not KEY=N with N from 1 to %d; write for example tp=2,dp=2",
                          std::string(part), kDegreeMax));
    }
    int* field = key == "tp"       ? &spec.tp
                 : key == "dp"     ? &spec.dp
                 : key == "pp"     ? &spec.pp
                 : key == "ep"     ? &spec.ep
                 : key == "slices" ? &spec.slices
                                   : nullptr;
    if (field == nullptr) {
      return Refuse(absl::StrFormat("key '%s' is not known; use tp, dp, pp, ep, slices", key));
    }
    if (absl::StrContains(seen, absl::StrCat(",", key, ","))) {
      return Refuse(absl::StrFormat("key '%s' is given twice; give it once", key));
    }
    absl::StrAppend(&seen, ",", key, ",");
    *field = value;
  }
  if (static_cast<int64_t>(spec.tp) * spec.dp * spec.pp > kDegreeMax) {
    return Refuse(absl::StrFormat("'%s' asks for more than %d workers; use smaller degrees",
                                  std::string(text), kDegreeMax));
  }
  return spec;
}

absl::StatusOr<ParallelSpec> ResolveParallelSpec(ParallelSpec spec, const ModelShape& shape) {
  if (kReductionSlices % spec.tp != 0) {
    return Refuse(absl::StrFormat("tp=%d is not one of 1, 2, 4, 8; use one of these", spec.tp));
  }
  if (spec.pp > shape.layers) {
    return Refuse(absl::StrFormat("more workers than work: pp=%d for %d layers; use pp=%d or less",
                                  spec.pp, shape.layers, shape.layers));
  }
  RETURN_IF_ERROR(CheckDivides(shape.heads, spec.tp, "tp", "number of attention heads"));
  if (shape.kv_heads % spec.tp != 0 && spec.tp % shape.kv_heads != 0) {
    return Refuse(absl::StrFormat(
        "tp=%d and the model's %d kv heads do not divide one another; use another tp", spec.tp,
        shape.kv_heads));
  }
  if (shape.qk_norm == QkNorm::kFullWidth && shape.kv_heads % spec.tp != 0) {
    return Refuse(absl::StrFormat(
        "tp=%d does not divide the %d kv heads over which %s normalizes keys; use a tp that does",
        spec.tp, shape.kv_heads, std::string(ArchitectureName(shape.architecture))));
  }
  if (!shape.IsMoe() || !shape.dense_layers.empty()) {
    RETURN_IF_ERROR(CheckDivides(shape.ffn, spec.tp, "tp", "intermediate size"));
  }
  if (!shape.IsMoe()) {
    RETURN_IF_ERROR(CheckDense(spec, shape));
    spec.ep = 0;
    return spec;
  }
  ASSIGN_OR_RETURN(spec.ep, ResolveExpertGroups(spec, shape));
  return spec;
}

std::string EpNote(const ParallelSpec& asked, const ModelShape& shape) {
  if (asked.ep == 0 || shape.IsMoe()) return "";
  return absl::StrFormat("ep=%d does not apply: %s is a dense model without experts", asked.ep,
                         std::string(ArchitectureName(shape.architecture)));
}

}  // namespace conclave
