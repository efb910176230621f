#include "tools/cli/plan_view.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace conclave {
namespace {

constexpr int kColumnsLeast = 80;
constexpr int kColumnsMost = 120;
constexpr int kStepBarColumns = 30;
constexpr int kMemoryColumns = 60;  // of a memory line without its bar
constexpr int kGroupsShown = 16;

// ANSI SGR codes of the parts of a bar.
constexpr const char* kBlue = "34";
constexpr const char* kYellow = "33";
constexpr const char* kCyan = "36";

std::string Coloured(const TextStyle& style, const char* code, const std::string& text) {
  if (!style.colours || text.empty()) return text;
  return absl::StrCat("\x1b[", code, "m", text, "\x1b[0m");
}

std::string Heading(const TextStyle& style, absl::string_view title) {
  return absl::StrCat("\n", Bold(style, title), "\n");
}

// Cells of `columns` for shares of a whole; what is left is `free`. Small shares keep one cell.
std::vector<int> Cells(const std::vector<double>& shares, int columns) {
  std::vector<int> cells;
  int used = 0;
  for (const double share : shares) {
    int cell = static_cast<int>(std::lround(share * columns));
    if (share > 0 && cell == 0) cell = 1;
    cell = std::clamp(cell, 0, columns - used);
    used += cell;
    cells.push_back(cell);
  }
  cells.push_back(columns - used);
  return cells;
}

// "#####==::......": weights, KV, scratch, free.
std::string MemoryBar(const MemoryUse& memory, const TextStyle& style) {
  const double whole = std::max(memory.capacity, 1.0);
  const std::vector<int> cells =
      Cells({memory.weights / whole, memory.kv / whole, memory.scratch / whole},
            style.columns - kMemoryColumns);
  return absl::StrCat("[", Coloured(style, kBlue, std::string(cells[0], '#')),
                      Coloured(style, kYellow, std::string(cells[1], '=')),
                      Coloured(style, kCyan, std::string(cells[2], ':')),
                      std::string(cells[3], '.'), "]");
}

std::string GroupLine(const PlanDocument& document, const RankGroup& group,
                      const TextStyle& style) {
  const MemoryUse& m = group.memory;
  std::string ranks = RankRangesText(group.ranks);
  if (ranks.size() > 16) ranks = absl::StrCat(group.ranks.size(), " ranks");
  const std::string experts = group.experts > 0 ? absl::StrCat(group.experts) : "-";
  const double used = (m.weights + m.kv + m.scratch) / std::max(m.capacity, 1.0);
  return absl::StrFormat("  %-8s %-7s %7s %8s %7s %7s %s %3.0f %%\n", ranks,
                         LayersText(group, document.result.best.candidate), experts,
                         BytesText(m.weights), BytesText(m.kv), BytesText(m.scratch),
                         MemoryBar(m, style), 100 * used);
}

std::string MoneyText(double cost) { return cost > 0 ? absl::StrFormat("%.2f", cost) : "-"; }

std::string RunnerLine(int place, const PricedPlan& plan) {
  std::string out = absl::StrFormat(
      "  %-2d %-28s %-9s %5d %8s %8s %9s", place, GridText(plan.candidate.spec),
      std::string(ScheduleName(plan.candidate.schedule)), plan.devices, TimeText(plan.tpot_seconds),
      TimeText(plan.ttft_seconds), CountText(std::round(plan.tokens_per_second)));
  if (plan.cost_per_million_tokens > 0) {
    absl::StrAppendFormat(&out, " %8s", MoneyText(plan.cost_per_million_tokens));
  }
  return out + "\n";
}

}  // namespace

TextStyle StdoutStyle() {
  TextStyle style;
  if (isatty(STDOUT_FILENO) == 0) return style;
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    style.columns = std::clamp<int>(size.ws_col, kColumnsLeast, kColumnsMost);
  }
  const char* plain = getenv("NO_COLOR");
  style.colours = plain == nullptr || *plain == '\0';
  return style;
}

std::string WrapText(absl::string_view text, int columns, int indent) {
  const std::string margin(indent, ' ');
  std::string out;
  std::string line;
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    if (!line.empty() && indent + line.size() + 1 + word.size() > static_cast<size_t>(columns)) {
      absl::StrAppend(&out, margin, line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  if (!line.empty()) absl::StrAppend(&out, margin, line, "\n");
  return out;
}

std::string Padded(absl::string_view text, int width) {
  return absl::StrFormat("%-*s", width, std::string(text));
}

std::string Bold(const TextStyle& style, absl::string_view text) {
  return Coloured(style, "1", std::string(text));
}

std::string RenderVerdict(const PlanDocument& document, const TextStyle& style) {
  const SearchInput& search = document.inputs.search;
  const PricedPlan& best = document.result.best;
  std::string title = absl::StrCat(search.model.name, " on ", ClusterText(search.cluster), ": ",
                                   GridText(best.candidate.spec));
  if (search.model.IsMoe()) {
    absl::StrAppend(&title, ", ", ScheduleName(best.candidate.schedule), " exchange");
  }
  std::string out = absl::StrCat(Bold(style, title), "\n");
  std::string figures = absl::StrFormat(
      "%s a token, first token after %s, %s tokens/s with %s sequence%s on %d device%s",
      TimeText(best.tpot_seconds), TimeText(best.ttft_seconds),
      CountText(std::round(best.tokens_per_second)), CountText(best.concurrency),
      best.concurrency == 1 ? "" : "s", best.devices, best.devices == 1 ? "" : "s");
  if (best.cost_per_million_tokens > 0) {
    absl::StrAppend(&figures, ", ", MoneyText(best.cost_per_million_tokens),
                    " a million tokens out");
  }
  absl::StrAppend(&figures, "; memory holds ", CountText(best.sequences_max), " sequences");
  return out + WrapText(figures, style.columns, 2);
}

std::string RenderInputs(const PlanInputs& inputs, const TextStyle& style) {
  std::string out = Heading(style, "ASKED");
  for (const InputRow& row : InputRows(inputs)) {
    const std::string lines = WrapText(row.value, style.columns, 16);
    absl::StrAppend(&out, "  ", Padded(row.name, 14), lines.substr(16));
  }
  return out;
}

std::string RenderMemory(const PlanDocument& document, const TextStyle& style) {
  const std::vector<RankGroup> groups = GroupRanks(document);
  std::string out = Heading(style, "MEMORY OF A RANK, # weights = KV : scratch");
  absl::StrAppendFormat(&out, "  %-8s %-7s %7s %8s %7s %7s  of the device\n", "RANKS", "LAYERS",
                        "EXPERTS", "WEIGHTS", "KV", "SCRATCH");
  for (size_t i = 0; i < groups.size() && i < kGroupsShown; ++i) {
    out += GroupLine(document, groups[i], style);
  }
  if (groups.size() > kGroupsShown) {
    absl::StrAppend(&out, "  and ", groups.size() - kGroupsShown,
                    " more kinds of ranks; --html or --json shows all\n");
  }
  return out;
}

std::string RenderStep(const PlanDocument& document, const TextStyle& style) {
  const PricedPlan& best = document.result.best;
  const StepCost& step = best.decode;
  std::string out =
      Heading(style, absl::StrFormat("A DECODE STEP OF %s SEQUENCE%s: %s, BOUND BY %s",
                                     CountText(best.concurrency / best.steps_in_flight),
                                     best.concurrency / best.steps_in_flight == 1 ? "" : "S",
                                     TimeText(step.seconds), std::string(BoundName(step.bound))));
  for (const CostRow& row : CostRows(step)) {
    const int cells = static_cast<int>(std::lround(row.share * kStepBarColumns));
    absl::StrAppendFormat(&out, "  %-18s %9.3f ms %5.1f %%", std::string(CostKindName(row.kind)),
                          row.seconds * 1e3, 100 * row.share);
    if (cells > 0) absl::StrAppend(&out, "  ", Coloured(style, kBlue, std::string(cells, '#')));
    out += "\n";
  }
  const ReadRate reads = DecodeReads(document.inputs, best);
  const std::string notes = absl::StrFormat(
      "The ranks read %s in a step, %.0f %% of what their memories could; a prompt of %s tokens "
      "takes %s.",
      BytesText(reads.bytes), 100 * reads.share,
      CountText(document.inputs.search.mix.prompt_tokens), TimeText(best.prefill.seconds));
  return out + WrapText(notes, style.columns, 2);
}

std::string RenderLinks(const PlanInputs& inputs, const PricedPlan& plan) {
  const std::vector<LinkRow> rows = LinkRows(inputs, plan);
  if (rows.empty()) return "  Nothing crosses a link.\n";
  std::string out = absl::StrFormat("  %-8s %12s %12s %26s\n", "LINKS", "BYTES", "MESSAGES",
                                    "BUSIEST RANK SENDS");
  for (const LinkRow& row : rows) {
    absl::StrAppendFormat(&out, "  %-8s %12s %12s %12s (rank %d)\n",
                          std::string(LinkClassName(row.link)), BytesText(row.bytes),
                          CountText(std::round(row.messages)), BytesText(row.busiest_bytes),
                          row.busiest_rank);
  }
  return out;
}

std::string RenderRunnersUp(const SearchResult& result, const TextStyle& style) {
  std::string out = Heading(style, "NEXT BEST");
  absl::StrAppendFormat(&out, "  %-2s %-28s %-9s %5s %8s %8s %9s%s\n", "", "GRID", "EXCHANGE",
                        "DEVS", "TPOT", "TTFT", "TOKENS/S",
                        result.best.cost_per_million_tokens > 0 ? "   COST/M" : "");
  out += RunnerLine(1, result.best);
  int place = 1;
  for (const PricedPlan& plan : result.runners_up) {
    out += RunnerLine(++place, plan);
    out += WrapText(LossText(plan), style.columns, 5);
  }
  const std::string counts = absl::StrFormat(
      "%s candidates priced, %s too large, %s beyond a limit.", CountText(result.candidates),
      CountText(result.too_large), CountText(result.slo_missed));
  return out + WrapText(counts, style.columns, 2);
}

std::string RenderExperts(const PlacedExperts& experts) {
  return absl::StrFormat(
      "  Balanced for the trace: the busiest rank of a layer has %.2f times its fair share\n"
      "  (worst layer %.2f); in blocks of consecutive experts it would have %.2f.\n",
      experts.makespan, experts.makespan_max, experts.makespan_in_blocks);
}

std::string RenderPlanTable(const PlanDocument& document, const TextStyle& style) {
  std::string out = RenderVerdict(document, style);
  if (!document.result.reason.empty()) {
    out += Heading(style, "WHY") + WrapText(document.result.reason, style.columns, 2);
  }
  out += RenderMemory(document, style);
  if (document.inputs.load.layers() > 0) {
    out += Heading(style, "EXPERTS") + RenderExperts(document.experts);
  }
  out += RenderStep(document, style);
  out += Heading(style, "TRAFFIC OF A DECODE STEP") +
         RenderLinks(document.inputs, document.result.best);
  if (document.result.candidates > 0) out += RenderRunnersUp(document.result, style);
  return out + RenderInputs(document.inputs, style);
}

}  // namespace conclave
