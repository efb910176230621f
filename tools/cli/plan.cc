#include "tools/cli/plan.h"

#include <fstream>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "coordinator/model_config/json_fields.h"
#include "tools/cli/exact_json.h"
#include "tools/cli/plan_diff.h"
#include "tools/cli/plan_html.h"
#include "tools/cli/plan_view.h"

namespace conclave {
namespace {

constexpr size_t kPlanBytesMax = size_t{1} << 30;

absl::Status WriteFile(const std::string& flag, const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (out.good()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " '", path, "' cannot be written; check the folder and its rights"));
}

struct PlanFile {
  std::string text;
  SavedPlan saved;
};

absl::StatusOr<PlanFile> ReadPlanFile(const std::string& path) {
  absl::StatusOr<std::string> text = ReadTextFile(path, kPlanBytesMax);
  if (!text.ok()) return absl::InvalidArgumentError(text.status().message());
  PlanFile file;
  ASSIGN_OR_RETURN(file.saved, ReadPlanDocument(*text, path));
  file.text = *std::move(text);
  return file;
}

absl::StatusOr<PlanDocument> PriceFile(const std::string& path) {
  ASSIGN_OR_RETURN(const PlanFile file, ReadPlanFile(path));
  absl::StatusOr<PlanDocument> document = PriceSavedPlan(file.saved);
  if (!document.ok()) return WithContext(document.status(), path);
  return document;
}

absl::Status WriteOutputs(const PlanDocument& document, const PlanOutputs& outputs) {
  const std::string text = WritePlanDocument(document);
  if (!outputs.output_path.empty()) {
    RETURN_IF_ERROR(WriteFile("--output", outputs.output_path, text));
  }
  if (!outputs.html_path.empty()) {
    RETURN_IF_ERROR(WriteFile("--html", outputs.html_path, RenderPlanHtml(document)));
  }
  std::cout << (outputs.json ? text : RenderPlanTable(document, StdoutStyle()));
  return absl::OkStatus();
}

}  // namespace

absl::Status RunPlan(const PlanOptions& options) {
  if (!options.compare_path.empty() && options.outputs.json) {
    return absl::InvalidArgumentError(
        "--compare: --json prints one document; save with --output, then `conclave plan diff "
        "--json`");
  }
  ASSIGN_OR_RETURN(const PlanInputs inputs, MakePlanInputs(options.question));
  absl::StatusOr<PlanDocument> before = PlanDocument();
  if (!options.compare_path.empty()) {
    // Read first: a broken file must not cost a search.
    before = PriceFile(options.compare_path);
    if (!before.ok()) return WithContext(before.status(), "--compare");
  }
  ASSIGN_OR_RETURN(const PlanDocument document, MakePlanDocument(inputs));
  RETURN_IF_ERROR(WriteOutputs(document, options.outputs));
  if (options.compare_path.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const PlanDiff diff, DiffPlans(*before, document));
  std::cout << "\nFrom " << options.compare_path << " to this plan\n"
            << RenderDiff(diff, StdoutStyle());
  return absl::OkStatus();
}

absl::Status RunPlanDiff(const PlanDiffOptions& options) {
  ASSIGN_OR_RETURN(const PlanDocument before, PriceFile(options.before_path));
  ASSIGN_OR_RETURN(const PlanDocument after, PriceFile(options.after_path));
  ASSIGN_OR_RETURN(const PlanDiff diff, DiffPlans(before, after));
  std::cout << (options.json ? PrettyJson(DiffToJson(diff)) : RenderDiff(diff, StdoutStyle()));
  return absl::OkStatus();
}

absl::Status RunPlanExplain(const PlanExplainOptions& options) {
  ASSIGN_OR_RETURN(const PlanFile file, ReadPlanFile(options.path));
  absl::StatusOr<PlanDocument> document = MakePlanDocument(file.saved.inputs);
  if (!document.ok()) return WithContext(document.status(), options.path);
  RETURN_IF_ERROR(WriteOutputs(*document, options.outputs));
  if (WritePlanDocument(*document) != file.text) {
    std::cerr << "note: '" << options.path
              << "' has other figures than its inputs give now: it was edited, or another version "
                 "of the cost model wrote it\n";
  }
  return absl::OkStatus();
}

}  // namespace conclave
