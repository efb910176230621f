// LineChart: lines over a few places on the x axis, as one self-contained SVG: no script, no font
// or style from elsewhere, readable on light and dark pages, lines told apart by marks as well as
// by colour. Pure; any thread.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace conclave {

struct ChartLine {
  std::string label;
  std::vector<std::pair<double, double>> points;  // x, y; x is one of the chart's places
  bool dashed = false;                            // fitted, not measured: a line without marks
  int colour = 0;
};

struct LineChart {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<ChartLine> lines;
};

// & < > " ' as entities.
std::string EscapeXml(absl::string_view text);

// The places of the x axis are the values that occur, evenly spaced; y starts at 0.
std::string DrawChart(const LineChart& chart);

}  // namespace conclave
