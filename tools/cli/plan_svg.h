// Drawings of a plan as inline SVG: the cluster with its ranks, stacked bars. Text and tooltips are
// escaped; colours are classes and variables of the page's style sheet (plan_html.cc), and nothing
// is told by colour alone. Pure; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "placement/search/search.h"

namespace conclave {

// & < > " ' as entities; control characters, which XML forbids, as blanks.
std::string EscapeMarkup(absl::string_view text);

// Colours of the page: a fill and the text on it. `index` is any number; they repeat.
struct Swatch {
  const char* fill;
  const char* ink;
};
Swatch PaletteColour(int index);
inline constexpr int kPaletteColours = 11;

struct BarPart {
  std::string label;  // of the tooltip
  std::string mark;   // in the bar where it fits, such as "1"
  double share = 0;   // of the bar's width
  Swatch colour = {"#999999", "#000000"};
};
// A bar of `width` x `height` user units.
struct BarSize {
  int width = 0;
  int height = 0;
};
std::string StackedBar(const std::vector<BarPart>& parts, const BarSize& size,
                       absl::string_view title);

// Nodes as boxes, devices as cells with rank and pp.dp.tp, coloured by (pp, dp); idle devices are
// empty. Cells of large clusters have tooltips only.
std::string ClusterDrawing(const ClusterTopology& cluster, const Candidate& candidate);

}  // namespace conclave
