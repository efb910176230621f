#include "tools/report/line_chart.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace conclave {
namespace {

constexpr int kWidth = 760, kHeight = 420;
constexpr int kLeft = 76, kRight = 210, kTop = 44, kBottom = 56;
constexpr int kTicks = 5;  // about as many

// Okabe and Ito's palette: told apart with any colour vision.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73",
                                    "#cc79a7", "#e69f00", "#56b4e9"};

// 1, 2 or 5 times a power of ten, so that about kTicks fit into `most`.
double TickStep(double most) {
  const double rough = most / kTicks;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

class Plane {
 public:
  explicit Plane(const LineChart& chart) {
    std::set<double> places;
    for (const ChartLine& line : chart.lines) {
      for (const auto& [x, y] : line.points) {
        places.insert(x);
        most_ = std::max(most_, y);
      }
    }
    places_.assign(places.begin(), places.end());
    if (most_ <= 0) most_ = 1;
    step_ = TickStep(most_);
    most_ = std::ceil(most_ / step_) * step_;
  }
  double X(double x) const {
    const auto at = std::lower_bound(places_.begin(), places_.end(), x) - places_.begin();
    const double width = kWidth - kLeft - kRight;
    return kLeft + width * (static_cast<double>(at) + 0.5) / static_cast<double>(places_.size());
  }
  double Y(double y) const {
    return kHeight - kBottom - (kHeight - kTop - kBottom) * (y / most_);
  }
  const std::vector<double>& places() const { return places_; }
  double most() const { return most_; }
  double step() const { return step_; }

 private:
  std::vector<double> places_;
  double most_ = 0;
  double step_ = 1;
};

std::string DrawMark(int colour, double x, double y) {
  const char* fill = kColours[colour % std::size(kColours)];
  switch (colour % 3) {
    case 0:
      return absl::StrFormat("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>", x, y,
                             fill);
    case 1:
      return absl::StrFormat(
          "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"%s\"/>", x - 4, y - 4, fill);
    default:
      return absl::StrFormat("<path d=\"M%.1f %.1fl5 9h-10z\" fill=\"%s\"/>", x, y - 5, fill);
  }
}

std::string DrawAxes(const LineChart& chart, const Plane& plane) {
  std::string out;
  for (double y = 0; y <= plane.most() * 1.0001; y += plane.step()) {
    absl::StrAppendFormat(&out,
                          "<path class=\"grid\" d=\"M%d %.1fH%d\"/>"
                          "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                          kLeft, plane.Y(y), kWidth - kRight, kLeft - 8, plane.Y(y) + 4, y);
  }
  for (const double x : plane.places()) {
    absl::StrAppendFormat(&out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n",
                          plane.X(x), kHeight - kBottom + 20, x);
  }
  absl::StrAppendFormat(
      &out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
      (kLeft + kWidth - kRight) / 2, kHeight - 12, EscapeXml(chart.x_label));
  absl::StrAppendFormat(
      &out, "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
      (kTop + kHeight - kBottom) / 2, EscapeXml(chart.y_label));
  absl::StrAppendFormat(&out, "<text class=\"title\" x=\"%d\" y=\"24\">%s</text>\n", kLeft,
                        EscapeXml(chart.title));
  return out;
}

std::string DrawLine(const ChartLine& line, const Plane& plane, int number) {
  const char* stroke = kColours[line.colour % std::size(kColours)];
  std::string path, marks;
  for (const auto& [x, y] : line.points) {
    absl::StrAppendFormat(&path, "%s%.1f %.1f", path.empty() ? "M" : "L", plane.X(x), plane.Y(y));
    if (line.dashed) continue;
    absl::StrAppendFormat(&marks, "<g><title>%s, %g: %.4g</title>%s</g>", EscapeXml(line.label), x,
                          y, DrawMark(line.colour, plane.X(x), plane.Y(y)));
  }
  const char* dash = line.dashed ? " stroke-dasharray=\"5 4\"" : "";
  const int x = kWidth - kRight + 16, y = kTop + 8 + 20 * number;
  return absl::StrFormat(
      "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s/>%s\n"
      "<path d=\"M%d %dh28\" stroke=\"%s\" stroke-width=\"2\"%s/>%s"
      "<text x=\"%d\" y=\"%d\">%s</text>\n",
      path, stroke, dash, marks, x, y, stroke, dash,
      line.dashed ? std::string() : DrawMark(line.colour, x + 14, y), x + 36, y + 4,
      EscapeXml(line.label));
}

}  // namespace

std::string EscapeXml(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string DrawChart(const LineChart& chart) {
  const Plane plane(chart);
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" "
      "aria-label=\"%s\">\n<style>text{font:13px sans-serif;fill:#222}.title{font-size:15px;"
      "font-weight:bold}.grid{stroke:#8886}svg{background:#fff}@media (prefers-color-scheme:dark)"
      "{text{fill:#ddd}svg{background:#1b1b1b}}</style>\n",
      kWidth, kHeight, EscapeXml(chart.title));
  out += DrawAxes(chart, plane);
  int number = 0;
  for (const ChartLine& line : chart.lines) out += DrawLine(line, plane, number++);
  return out + "</svg>\n";
}

}  // namespace conclave
