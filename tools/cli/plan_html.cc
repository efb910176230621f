#include "tools/cli/plan_html.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/cli/plan_facts.h"
#include "tools/cli/plan_svg.h"

namespace conclave {
namespace {

constexpr BarSize kMemoryBar = {320, 16};
constexpr BarSize kStepBar = {1160, 34};
constexpr BarSize kLinkBar = {320, 16};

constexpr char kStyle[] = R"css(
:root{color-scheme:light dark;--bg:#ffffff;--fg:#1b1f24;--soft:#57606a;--line:#d0d7de;
--panel:#f6f8fa;--track:#e4e8ec}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9198a1;--line:#30363d;
--panel:#161b22;--track:#262c34}}
body{background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif;margin:0}
main{max-width:1200px;margin:0 auto;padding:24px 20px 48px}
h1{font-size:25px;margin:0 0 4px}h2{font-size:18px;margin:34px 0 8px}
p{margin:6px 0;max-width:80em}.soft{color:var(--soft)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 16px}
.tile b{display:block;font-size:21px;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);
vertical-align:top}th{color:var(--soft);font-weight:600;font-size:13px}
td.n,th.n{text-align:right}tr.best td{font-weight:600}tr.note td{color:var(--soft);
border-bottom:1px solid var(--line)}tr.with-note td{border-bottom:0;padding-bottom:0}
.key{display:inline-block;min-width:20px;text-align:center;border-radius:3px;padding:0 4px;
font-size:13px}
svg{display:block;max-width:100%;height:auto}svg .node{fill:var(--panel);stroke:var(--line)}
svg .track{fill:var(--track)}svg .idle{fill:none;stroke:var(--soft);stroke-dasharray:3 3}
svg text{font:13px system-ui,sans-serif}svg .label{fill:var(--fg)}
svg .cell{text-anchor:middle}svg .small{font-size:11px}
)css";

std::string Cell(absl::string_view text) {
  return absl::StrCat("<td>", EscapeMarkup(text), "</td>");
}
std::string Figure(absl::string_view text) {
  return absl::StrCat("<td class=\"n\">", EscapeMarkup(text), "</td>");
}

// A header row; names that start with '>' head a column of figures.
std::string Head(const std::vector<absl::string_view>& names) {
  std::string out = "<tr>";
  for (absl::string_view name : names) {
    const bool figures = !name.empty() && name[0] == '>';
    if (figures) name.remove_prefix(1);
    absl::StrAppend(&out, figures ? "<th class=\"n\">" : "<th>", EscapeMarkup(name), "</th>");
  }
  return out + "</tr>\n";
}

std::string Section(absl::string_view title, absl::string_view body) {
  return absl::StrCat("<section><h2>", EscapeMarkup(title), "</h2>\n", body, "</section>\n");
}

std::string Table(absl::string_view rows) {
  return absl::StrCat("<div class=\"scroll\"><table>", rows, "</table></div>\n");
}

std::string KeyMark(const std::string& mark, const Swatch& colour) {
  return absl::StrFormat("<span class=\"key\" style=\"background:%s;color:%s\">%s</span>",
                         colour.fill, colour.ink, EscapeMarkup(mark));
}

std::string Title(const PlanDocument& document) {
  return absl::StrCat(document.inputs.search.model.name, " on ",
                      ClusterText(document.inputs.search.cluster));
}

std::string Verdict(const PlanDocument& document) {
  const PricedPlan& best = document.result.best;
  std::string out = absl::StrCat("<h1>", EscapeMarkup(Title(document)), ": ",
                                 EscapeMarkup(GridText(best.candidate.spec)), "</h1>\n");
  const std::string sub =
      document.inputs.search.model.IsMoe()
          ? absl::StrCat(ScheduleName(best.candidate.schedule), " exchange, objective ",
                         ObjectiveName(document.inputs.search.objective))
          : absl::StrCat("objective ", ObjectiveName(document.inputs.search.objective));
  absl::StrAppend(&out, "<p class=\"soft\">", EscapeMarkup(sub), "</p>\n<div class=\"tiles\">");
  std::vector<std::pair<std::string, std::string>> tiles = {
      {TimeText(best.tpot_seconds), "a token"},
      {TimeText(best.ttft_seconds), "to the first token"},
      {CountText(std::round(best.tokens_per_second)), "tokens a second"},
      {CountText(best.concurrency), "sequences at once"},
      {CountText(best.sequences_max), "sequences fit in memory"},
      {absl::StrCat(best.devices, " of ", document.inputs.search.cluster.DeviceCount()),
       "devices used"}};
  if (best.cost_per_million_tokens > 0) {
    tiles.push_back(
        {absl::StrFormat("%.2f", best.cost_per_million_tokens), "cost of a million tokens"});
  }
  for (const auto& [figure, name] : tiles) {
    absl::StrAppend(&out, "<div class=\"tile\"><b>", EscapeMarkup(figure), "</b><span>",
                    EscapeMarkup(name), "</span></div>");
  }
  return out + "</div>\n";
}

std::string Drawing(const PlanDocument& document) {
  return absl::StrCat(
      "<p class=\"soft\">Each cell is a device: its rank, and stage.dp.tp. Cells of one colour are "
      "the tensor-parallel group of one stage and dp; dashed cells are not used.</p>\n",
      "<div class=\"scroll\">",
      ClusterDrawing(document.inputs.search.cluster, document.result.best.candidate), "</div>\n");
}

std::string Memory(const PlanDocument& document) {
  const Swatch weights = PaletteColour(0);
  const Swatch kv = PaletteColour(1);
  const Swatch scratch = PaletteColour(2);
  std::string rows = Head({"Ranks", "Device", "Layers", ">Experts", ">Weights", ">KV", ">Scratch",
                           ">Of", "Share of the device"});
  for (const RankGroup& group : GroupRanks(document)) {
    const MemoryUse& m = group.memory;
    const double whole = std::max(1.0, m.capacity);
    const std::vector<BarPart> parts = {
        {absl::StrCat("weights ", BytesText(m.weights)), "W", m.weights / whole, weights},
        {absl::StrCat("KV cache ", BytesText(m.kv)), "K", m.kv / whole, kv},
        {absl::StrCat("scratch ", BytesText(m.scratch)), "S", m.scratch / whole, scratch}};
    absl::StrAppend(&rows, "<tr>", Cell(RankRangesText(group.ranks)), Cell(group.profile),
                    Cell(LayersText(group, document.result.best.candidate)),
                    Figure(group.experts > 0 ? absl::StrCat(group.experts) : "-"),
                    Figure(BytesText(m.weights)), Figure(BytesText(m.kv)),
                    Figure(BytesText(m.scratch)), Figure(BytesText(m.capacity)));
    absl::StrAppend(&rows, "<td>", StackedBar(parts, kMemoryBar, "memory"), "</td></tr>\n");
  }
  return absl::StrCat("<p>", KeyMark("W", weights), " weights ", KeyMark("K", kv),
                      " KV cache at the sequences above ", KeyMark("S", scratch),
                      " activations and staging</p>\n", Table(rows));
}

std::string Step(const PlanDocument& document) {
  const StepCost& step = document.result.best.decode;
  const StepCost& prefill = document.result.best.prefill;
  std::vector<BarPart> parts;
  std::string rows = Head({"", "Part", ">Decode step", ">Share", ">Prompt"});
  for (const CostRow& row : CostRows(step)) {
    const std::string mark = absl::StrCat(parts.size() + 1);
    const Swatch colour = PaletteColour(static_cast<int>(row.kind));
    const std::string name(CostKindName(row.kind));
    parts.push_back(
        {absl::StrFormat("%s %s, %.1f %%", name, TimeText(row.seconds), 100 * row.share), mark,
         row.share, colour});
    absl::StrAppend(
        &rows, "<tr><td>", KeyMark(mark, colour), "</td>", Cell(name),
        Figure(TimeText(row.seconds)), Figure(absl::StrFormat("%.1f %%", 100 * row.share)),
        Figure(TimeText(prefill.seconds_by_kind[static_cast<int>(row.kind)])), "</tr>\n");
  }
  absl::StrAppend(&rows, "<tr class=\"best\"><td></td>", Cell("all"),
                  Figure(TimeText(step.seconds)), Figure("100 %"),
                  Figure(TimeText(prefill.seconds)), "</tr>\n");
  const ReadRate reads = DecodeReads(document.inputs, document.result.best);
  const std::string text = absl::StrFormat(
      "Bound by %s; the ranks read %s in a step, %.0f %% of what their memories could.",
      std::string(BoundName(step.bound)), BytesText(reads.bytes), 100 * reads.share);
  return absl::StrCat("<p>", EscapeMarkup(text), "</p>\n<div class=\"scroll\">",
                      StackedBar(parts, kStepBar, "parts of a decode step"), "</div>\n",
                      Table(rows));
}

std::string Traffic(const PlanDocument& document) {
  const std::vector<LinkRow> links = LinkRows(document.inputs, document.result.best);
  if (links.empty()) return "<p>Nothing crosses a link.</p>\n";
  double most = 1;
  for (const LinkRow& row : links) most = std::max(most, row.bytes);
  std::string rows = Head({"Links", ">Bytes a step", ">Messages", ">Busiest rank sends", "Bytes"});
  for (const LinkRow& row : links) {
    const BarPart bar = {BytesText(row.bytes), "", row.bytes / most, PaletteColour(0)};
    absl::StrAppend(
        &rows, "<tr>", Cell(LinkClassName(row.link)), Figure(BytesText(row.bytes)),
        Figure(CountText(std::round(row.messages))),
        Figure(absl::StrCat(BytesText(row.busiest_bytes), " (rank ", row.busiest_rank, ")")),
        "<td>");
    absl::StrAppend(&rows, StackedBar({bar}, kLinkBar, "bytes"), "</td></tr>\n");
  }
  return Table(rows);
}

std::string Runner(int place, const PricedPlan& plan) {
  const std::string cost = plan.cost_per_million_tokens > 0
                               ? absl::StrFormat("%.2f", plan.cost_per_million_tokens)
                               : "-";
  const std::string loss = LossText(plan);
  const bool note = place > 1 && !loss.empty();
  std::string out =
      absl::StrCat("<tr class=\"",
                   place == 1 ? "best"
                   : note     ? "with-note"
                              : "plain",
                   "\">", Figure(absl::StrCat(place)), Cell(GridText(plan.candidate.spec)),
                   Cell(ScheduleName(plan.candidate.schedule)), Figure(absl::StrCat(plan.devices)),
                   Figure(TimeText(plan.tpot_seconds)), Figure(TimeText(plan.ttft_seconds)),
                   Figure(CountText(std::round(plan.tokens_per_second))), Figure(cost), "</tr>\n");
  if (note) {
    absl::StrAppend(&out, "<tr class=\"note\"><td></td><td colspan=\"7\">", EscapeMarkup(loss),
                    "</td></tr>\n");
  }
  return out;
}

std::string RunnersUp(const SearchResult& result) {
  std::string rows = Head(
      {">#", "Grid", "Exchange", ">Devices", ">A token", ">First token", ">Tokens/s", ">Cost/M"});
  int place = 1;
  absl::StrAppend(&rows, Runner(place, result.best));
  for (const PricedPlan& plan : result.runners_up) absl::StrAppend(&rows, Runner(++place, plan));
  return absl::StrCat(Table(rows), "<p class=\"soft\">", CountText(result.candidates),
                      " candidates priced, ", CountText(result.too_large), " too large, ",
                      CountText(result.slo_missed), " beyond a limit.</p>\n");
}

std::string Inputs(const PlanInputs& inputs) {
  std::string rows;
  for (const InputRow& row : InputRows(inputs)) {
    absl::StrAppend(&rows, "<tr><th>", EscapeMarkup(row.name), "</th>", Cell(row.value), "</tr>\n");
  }
  std::string devices = Head({"Device", ">Memory", ">Bandwidth", "Source of its figures"});
  for (const HardwareProfile& profile : inputs.search.cluster.profiles) {
    absl::StrAppend(&devices, "<tr>", Cell(profile.name), Figure(BytesText(profile.memory_bytes)),
                    Figure(absl::StrCat(BytesText(profile.memory_bandwidth), "/s")),
                    Cell(profile.source), "</tr>\n");
  }
  return absl::StrCat(Table(rows), "<p></p>\n", Table(devices));
}

std::string Experts(const PlacedExperts& experts) {
  return absl::StrFormat(
      "<p>Balanced for the trace: the busiest rank of a layer has %.2f times its fair share (worst "
      "layer %.2f); in blocks of consecutive experts it would have %.2f.</p>\n",
      experts.makespan, experts.makespan_max, experts.makespan_in_blocks);
}

}  // namespace

std::string RenderPlanHtml(const PlanDocument& document) {
  std::string out = absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>",
      EscapeMarkup(
          absl::StrCat(Title(document), ": ", GridText(document.result.best.candidate.spec))),
      "</title><style>", kStyle, "</style></head><body><main>\n", Verdict(document));
  if (!document.result.reason.empty()) {
    out += Section("Why", absl::StrCat("<p>", EscapeMarkup(document.result.reason), "</p>\n"));
  }
  out += Section("Grid", Drawing(document));
  out += Section("Memory of a rank", Memory(document));
  if (document.inputs.load.layers() > 0) out += Section("Experts", Experts(document.experts));
  out += Section("A decode step", Step(document));
  out += Section("Traffic of a decode step", Traffic(document));
  if (document.result.candidates > 0) out += Section("Next best", RunnersUp(document.result));
  out += Section("What was asked", Inputs(document.inputs));
  return out + "</main></body></html>\n";
}

}  // namespace conclave
