// A plan as text for a terminal of 80 to 120 columns: grid, reason, memory, parts of a step,
// traffic, runners-up. Everything is in the words and the bars; colours only help on a terminal.
// Pure; any thread.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "tools/cli/plan_facts.h"

namespace conclave {

struct TextStyle {
  int columns = 100;
  bool colours = false;
};
// Of this process's stdout: its columns, clamped to 80..120, and colours on a terminal unless
// NO_COLOR is set.
TextStyle StdoutStyle();

// Wraps at blanks; every line starts with `indent` blanks and ends with a newline.
std::string WrapText(absl::string_view text, int columns, int indent);
// A text of `width` columns at least, without regard to colours.
std::string Padded(absl::string_view text, int width);
std::string Bold(const TextStyle& style, absl::string_view text);

// All sections below, and the verdict before them.
std::string RenderPlanTable(const PlanDocument& document, const TextStyle& style);

// One line: model, cluster, grid, exchange; and one of the figures.
std::string RenderVerdict(const PlanDocument& document, const TextStyle& style);
std::string RenderInputs(const PlanInputs& inputs, const TextStyle& style);
std::string RenderMemory(const PlanDocument& document, const TextStyle& style);
std::string RenderStep(const PlanDocument& document, const TextStyle& style);
std::string RenderLinks(const PlanInputs& inputs, const PricedPlan& plan);
std::string RenderRunnersUp(const SearchResult& result, const TextStyle& style);
std::string RenderExperts(const PlacedExperts& experts);

}  // namespace conclave
