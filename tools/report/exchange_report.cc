#include "tools/report/exchange_report.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <functional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "tools/cli/exact_json.h"
#include "tools/report/line_chart.h"

namespace conclave {
namespace {

constexpr double kShareOfL = 0.8;  // of L, that PCC is to be faster by
constexpr size_t kPointsMax = 10'000;
constexpr double kNumberMax = 1e15;

class Reader {
 public:
  Reader(const boost::json::object& object, std::string where)
      : object_(object), where_(std::move(where)) {}

  double Number(const char* name, double least) {
    const boost::json::value* value = object_.if_contains(name);
    if (value == nullptr || !value->is_number()) {
      Fail(name, "is no number");
      return least;
    }
    const double number = value->to_number<double>();
    if (!(number >= least && number <= kNumberMax)) Fail(name, "is out of range");
    return number;
  }
  int Integer(const char* name, int least) {
    return static_cast<int>(std::min(Number(name, least), 1e9));
  }
  std::string Text(const char* name) {
    const boost::json::value* value = object_.if_contains(name);
    if (value != nullptr && value->is_string()) return std::string(value->as_string());
    Fail(name, "is no text");
    return "";
  }
  void Fail(const char* name, absl::string_view what) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat("report: ", where_, ".", name, " ", what,
                     "; give what exchange_bench --json has written"));
  }
  const absl::Status& status() const { return status_; }

 private:
  const boost::json::object& object_;
  const std::string where_;
  absl::Status status_;
};

absl::StatusOr<ExchangeMeasurement> ReadPoint(const boost::json::value& value, size_t index) {
  const std::string where = absl::StrCat("points[", index, "]");
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("report: ", where, " is no object"));
  }
  Reader reader(value.as_object(), where);
  ExchangeMeasurement point;
  point.ranks = reader.Integer("ranks", 1);
  point.tp = reader.Integer("tp", 1);
  const std::string schedule = reader.Text("schedule");
  point.pcc = schedule == "pcc";
  if (!point.pcc && schedule != "naive") reader.Fail("schedule", "is neither naive nor pcc");
  point.tokens = reader.Integer("tokens", 0);
  point.messages = static_cast<int64_t>(reader.Number("messages", 0));
  point.link_bytes = static_cast<int64_t>(reader.Number("link_bytes", 0));
  point.seconds = reader.Number("seconds", 1e-9);
  point.seconds_min = reader.Number("seconds_min", 0);
  point.gather_seconds = reader.Number("gather_seconds", 0);
  RETURN_IF_ERROR(reader.status());
  return point;
}

std::vector<double> Terms(const ExchangeMeasurements& measured, const ExchangeMeasurement& point) {
  return {1.0, static_cast<double>(point.messages),
          static_cast<double>(point.link_bytes) * 8 / measured.link_bits_per_second};
}

const ExchangeMeasurement* Find(const ExchangeMeasurements& measured,
                                const ExchangeMeasurement& like, bool pcc) {
  for (const ExchangeMeasurement& point : measured.points) {
    if (point.ranks == like.ranks && point.tp == like.tp && point.tokens == like.tokens &&
        point.pcc == pcc) {
      return &point;
    }
  }
  return nullptr;
}

std::string Table(const ExchangeMeasurements& measured, const Fit& fit) {
  std::string out =
      "| p | L | tokens | schedule | messages | KB over a link | median ms | least ms | of them "
      "gather ms | fitted ms | naive / PCC | at least |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const ExchangeMeasurement& point : measured.points) {
    absl::StrAppendFormat(&out, "| %d | %d | %d | %s | %d | %.0f | %.2f | %.2f | %.2f | %.2f |",
                          point.ranks, point.tp, point.tokens, point.pcc ? "PCC" : "naive",
                          point.messages, point.link_bytes / 1e3, point.seconds * 1e3,
                          point.seconds_min * 1e3, point.gather_seconds * 1e3,
                          fit.Predict(Terms(measured, point)) * 1e3);
    const ExchangeMeasurement* naive = Find(measured, point, false);
    if (point.pcc && naive != nullptr) {
      const double ratio = naive->seconds / point.seconds, least = kShareOfL * point.tp;
      absl::StrAppendFormat(&out, " %.2f%s | %.1f |\n", ratio, ratio >= least ? "" : " (below)",
                            least);
    } else {
      out += " | |\n";
    }
  }
  return out;
}

struct LineOf {
  std::string label;
  std::function<bool(const ExchangeMeasurement&)> takes;
  std::function<double(const ExchangeMeasurement&)> x;
};

// One measured and one fitted line.
void AddLines(const ExchangeMeasurements& measured, const Fit& fit, const LineOf& of,
              LineChart& chart) {
  ChartLine line, fitted;
  line.label = of.label;
  line.colour = fitted.colour = static_cast<int>(chart.lines.size()) / 2;
  fitted.label = of.label + ", fitted";
  fitted.dashed = true;
  for (const ExchangeMeasurement& point : measured.points) {
    if (!of.takes(point)) continue;
    line.points.emplace_back(of.x(point), point.seconds * 1e3);
    fitted.points.emplace_back(of.x(point), fit.Predict(Terms(measured, point)) * 1e3);
  }
  if (line.points.empty()) return;
  std::sort(line.points.begin(), line.points.end());
  std::sort(fitted.points.begin(), fitted.points.end());
  chart.lines.push_back(std::move(line));
  chart.lines.push_back(std::move(fitted));
}

}  // namespace

absl::StatusOr<ExchangeMeasurements> ParseExchangeMeasurements(absl::string_view json) {
  ASSIGN_OR_RETURN(const boost::json::value document, ParseExactJson(json, "report"));
  if (!document.is_object()) return absl::InvalidArgumentError("report: no JSON object");
  Reader reader(document.as_object(), "document");
  if (reader.Text("bench") != "moe_exchange") reader.Fail("bench", "is not moe_exchange");
  ExchangeMeasurements measured;
  measured.hosts = reader.Integer("hosts", 1);
  measured.ranks_per_host = reader.Integer("ranks_per_host", 1);
  measured.link_bits_per_second = reader.Number("link_bits_per_second", 1);
  measured.hidden = reader.Integer("hidden", 1);
  measured.top_k = reader.Integer("top_k", 1);
  measured.experts = reader.Integer("experts", 1);
  measured.iterations = reader.Integer("iterations", 1);
  const boost::json::value* points = document.as_object().if_contains("points");
  if (points == nullptr || !points->is_array() || points->as_array().empty() ||
      points->as_array().size() > kPointsMax) {
    reader.Fail("points", absl::StrCat("is no list of 1 to ", kPointsMax));
  }
  RETURN_IF_ERROR(reader.status());
  for (const boost::json::value& value : points->as_array()) {
    ASSIGN_OR_RETURN(ExchangeMeasurement point, ReadPoint(value, measured.points.size()));
    measured.points.push_back(point);
  }
  return measured;
}

Fit FitExchange(const ExchangeMeasurements& measured) {
  std::vector<FitPoint> points;
  for (const ExchangeMeasurement& point : measured.points) {
    points.push_back({Terms(measured, point), point.seconds});
  }
  return FitCosts(points);
}

std::vector<ReportFile> WriteExchangeReport(const ExchangeMeasurements& measured) {
  const Fit fit = FitExchange(measured);
  std::set<int> degrees;
  int ranks_most = 0, tokens_most = 0;
  for (const ExchangeMeasurement& point : measured.points) {
    degrees.insert(point.tp);
    ranks_most = std::max(ranks_most, point.ranks);
    tokens_most = std::max(tokens_most, point.tokens);
  }
  const std::string batch = absl::StrFormat("%d tokens x %d, top %d", tokens_most, measured.hidden,
                                            measured.top_k);
  LineChart by_l = {absl::StrCat("MoE exchange of ", batch, ", p = ", ranks_most), "L (tp)",
                    "milliseconds", {}};
  LineChart by_p = {absl::StrCat("MoE exchange of ", batch), "p (ranks)", "milliseconds", {}};
  for (const bool pcc : {false, true}) {
    const std::string name = pcc ? "PCC" : "naive";
    const auto over_l = [&](const ExchangeMeasurement& point) {
      return point.pcc == pcc && point.ranks == ranks_most && point.tokens == tokens_most;
    };
    AddLines(measured, fit, {name, over_l, [](const auto& point) { return point.tp; }}, by_l);
    for (const int tp : degrees) {
      const auto over_p = [&](const ExchangeMeasurement& point) {
        return point.pcc == pcc && point.tp == tp && point.tokens == tokens_most;
      };
      const std::string label = absl::StrCat(name, ", L = ", tp);
      AddLines(measured, fit, {label, over_p, [](const auto& point) { return point.ranks; }}, by_p);
    }
  }
  const std::string text = absl::StrFormat(
      "# MoE exchange: naive against PCC\n\n"
      "%d hosts x %d ranks (network namespaces), links of %.0f Mbit/s each way, rows of %d floats, "
      "top %d of %d experts\nspread evenly. Tokens are those of the whole batch: each dp group has "
      "its share, which its tp ranks all hold.\nTimes: dispatch, combine and gather, of the "
      "slowest rank; median of %d.\n\n%s\n"
      "![against L](exchange_by_l.svg)\n\n![against p](exchange_by_p.svg)\n\n"
      "## Fit\n\nseconds = C0 + C1 * messages of a rank + C2 * (bytes over the busiest link) / "
      "bandwidth, by least squares of relative errors:\n\n"
      "| C0 ms | C1 us a message | C2 | mean error | largest |\n|---|---|---|---|---|\n"
      "| %.3f | %.1f | %.3f | %.1f %% | %.1f %% |\n\n"
      "C2 is 1 when the link is all that bytes cost.\n",
      measured.hosts, measured.ranks_per_host, measured.link_bits_per_second / 1e6, measured.hidden,
      measured.top_k, measured.experts, measured.iterations, Table(measured, fit),
      fit.coefficients[0] * 1e3, fit.coefficients[1] * 1e6, fit.coefficients[2],
      fit.error_mean * 100, fit.error_max * 100);
  return {{"exchange.md", text},
          {"exchange_by_l.svg", DrawChart(by_l)},
          {"exchange_by_p.svg", DrawChart(by_p)}};
}

}  // namespace conclave
