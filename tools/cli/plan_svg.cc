#include "tools/cli/plan_svg.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace conclave {
namespace {

constexpr int kPageWidth = 1160;
constexpr int kLargeCluster = 128;  // devices; from here on cells are too small for text

// Okabe and Ito's palette, then three of Paul Tol's muted scheme: told apart with any colour
// vision.
constexpr Swatch kPalette[kPaletteColours] = {
    {"#0072b2", "#ffffff"}, {"#e69f00", "#000000"}, {"#56b4e9", "#000000"}, {"#009e73", "#000000"},
    {"#cc79a7", "#000000"}, {"#f0e442", "#000000"}, {"#d55e00", "#000000"}, {"#999999", "#000000"},
    {"#882255", "#ffffff"}, {"#ddcc77", "#000000"}, {"#332288", "#ffffff"}};

struct CellSize {
  int width = 0;
  int height = 0;
  int columns = 0;
  bool text = false;
};

struct Cell {
  int x = 0;
  int y = 0;
  int device = 0;
  int rank = -1;
};

std::string DrawCell(const ClusterTopology& cluster, const Candidate& candidate, const Cell& cell,
                     const CellSize& size) {
  const std::string where =
      absl::StrCat(cluster.nodes[cluster.NodeOf(cell.device)].name, ", device ", cell.device);
  if (cell.rank < 0) {
    return absl::StrFormat(
        "<g><title>%s: not used</title><rect class=\"idle\" x=\"%d\" y=\"%d\" width=\"%d\" "
        "height=\"%d\" rx=\"3\"/></g>",
        EscapeMarkup(where), cell.x, cell.y, size.width, size.height);
  }
  const GridPosition at = candidate.spec.PositionOf(cell.rank);
  const Swatch colour = PaletteColour(at.pp * candidate.spec.dp + at.dp);
  std::string out = absl::StrFormat(
      "<g><title>%s: rank %d, stage %d, dp %d, tp %d</title><rect x=\"%d\" y=\"%d\" width=\"%d\" "
      "height=\"%d\" rx=\"3\" fill=\"%s\"/>",
      EscapeMarkup(where), cell.rank, at.pp, at.dp, at.tp, cell.x, cell.y, size.width, size.height,
      colour.fill);
  if (size.text) {
    absl::StrAppendFormat(
        &out,
        "<text x=\"%d\" y=\"%d\" class=\"cell\" fill=\"%s\">%d</text><text x=\"%d\" y=\"%d\" "
        "class=\"cell small\" fill=\"%s\">%d.%d.%d</text>",
        cell.x + size.width / 2, cell.y + 16, colour.ink, cell.rank, cell.x + size.width / 2,
        cell.y + 30, colour.ink, at.pp, at.dp, at.tp);
  }
  return out + "</g>";
}

}  // namespace

std::string EscapeMarkup(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return out;
}

Swatch PaletteColour(int index) {
  return kPalette[((index % kPaletteColours) + kPaletteColours) % kPaletteColours];
}

std::string StackedBar(const std::vector<BarPart>& parts, const BarSize& size,
                       absl::string_view title) {
  std::string out = absl::StrFormat(
      "<svg role=\"img\" aria-label=\"%s\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">"
      "<rect class=\"track\" x=\"0\" y=\"0\" width=\"%d\" height=\"%d\" rx=\"3\"/>",
      EscapeMarkup(title), size.width, size.height, size.width, size.height, size.width,
      size.height);
  double x = 0;
  for (const BarPart& part : parts) {
    const double width = std::clamp(part.share * size.width, 0.0, size.width - x);
    if (width <= 0) continue;
    // A gap tells neighbours apart where colours do not.
    const double drawn = std::max(width - 1.5, std::min(width, 1.0));
    absl::StrAppendFormat(
        &out,
        "<g><title>%s</title><rect x=\"%.2f\" y=\"0\" width=\"%.2f\" height=\"%d\" "
        "fill=\"%s\"/>",
        EscapeMarkup(part.label), x, drawn, size.height, part.colour.fill);
    if (!part.mark.empty() && width > 9.0 * part.mark.size() + 4) {
      absl::StrAppendFormat(&out, "<text x=\"%.2f\" y=\"%d\" class=\"cell\" fill=\"%s\">%s</text>",
                            x + drawn / 2, size.height / 2 + 5, part.colour.ink,
                            EscapeMarkup(part.mark));
    }
    out += "</g>";
    x += width;
  }
  return out + "</svg>";
}

std::string ClusterDrawing(const ClusterTopology& cluster, const Candidate& candidate) {
  const int devices = cluster.DeviceCount();
  const CellSize size =
      devices > kLargeCluster ? CellSize{13, 13, 8, false} : CellSize{58, 36, 8, true};
  constexpr int kGap = 4;
  constexpr int kPad = 10;
  constexpr int kTitle = 22;
  std::vector<int> rank_of(devices, -1);
  for (size_t rank = 0; rank < candidate.devices.size(); ++rank) {
    rank_of[candidate.devices[rank]] = static_cast<int>(rank);
  }
  const int node_width = size.columns * (size.width + kGap) - kGap + 2 * kPad;
  const int per_row = std::max(1, (kPageWidth + kPad) / (node_width + kPad));
  std::string body;
  int top = 0;
  int row_height = 0;
  int device = 0;
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    const ClusterNode& node = cluster.nodes[i];
    const int column = static_cast<int>(i) % per_row;
    if (column == 0 && i > 0) {
      top += row_height + kPad;
      row_height = 0;
    }
    const int left = column * (node_width + kPad);
    const int rows = (node.devices + size.columns - 1) / size.columns;
    const int height = kTitle + rows * (size.height + kGap) - kGap + kPad;
    row_height = std::max(row_height, height);
    absl::StrAppendFormat(&body,
                          "<g><title>%s: %d x %s</title><rect class=\"node\" x=\"%d\" y=\"%d\" "
                          "width=\"%d\" height=\"%d\" rx=\"6\"/>",
                          EscapeMarkup(node.name), node.devices,
                          EscapeMarkup(cluster.profiles[node.profile].name), left, top, node_width,
                          height);
    const std::string label =
        size.text ? absl::StrCat(node.name, " - ", cluster.profiles[node.profile].name) : node.name;
    // A character of the label is some seven units wide.
    size_t fits = std::max(4, (node_width - 2 * kPad) / 7);
    while (fits < label.size() && (label[fits] & 0xc0) == 0x80) --fits;  // a whole character
    absl::StrAppendFormat(&body, "<text x=\"%d\" y=\"%d\" class=\"label\">%s</text></g>",
                          left + kPad, top + 15, EscapeMarkup(label.substr(0, fits)));
    for (int d = 0; d < node.devices; ++d, ++device) {
      const Cell cell = {left + kPad + d % size.columns * (size.width + kGap),
                         top + kTitle + d / size.columns * (size.height + kGap), device,
                         rank_of[device]};
      body += DrawCell(cluster, candidate, cell, size);
    }
  }
  const int height = top + row_height;
  return absl::StrFormat(
      "<svg role=\"img\" aria-label=\"Ranks on devices\" viewBox=\"0 0 %d %d\" width=\"%d\" "
      "height=\"%d\">%s</svg>",
      kPageWidth, height, kPageWidth, height, body);
}

}  // namespace conclave
