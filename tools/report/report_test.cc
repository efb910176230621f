#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "comm/base/rng.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/report/exchange_report.h"
#include "tools/report/fit.h"
#include "tools/report/line_chart.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(FitTest, FindsTheCostsOfPointsThatFollowTheModel) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    const std::vector<double> costs = {rng.Uniform(), rng.Uniform() * 1e-3, rng.Uniform() * 10};
    std::vector<FitPoint> points;
    for (int i = 0; i < 12; ++i) {
      FitPoint point;
      point.terms = {1, static_cast<double>(rng.Below(64)), rng.Uniform() * 5};
      for (size_t k = 0; k < costs.size(); ++k) point.value += costs[k] * point.terms[k];
      points.push_back(point);
    }
    const Fit fit = FitCosts(points);
    for (size_t k = 0; k < costs.size(); ++k) {
      EXPECT_NEAR(fit.coefficients[k], costs[k], 1e-6 * (1 + costs[k])) << seed;
    }
    EXPECT_LT(fit.error_max, 1e-6);
  }
}

TEST(FitTest, CostsAreNeverNegative) {
  // Falls with the first term: that term cannot be a cost.
  const std::vector<FitPoint> points = {{{1, 1}, 3}, {{2, 1}, 2}, {{3, 1}, 1}};
  const Fit fit = FitCosts(points);
  EXPECT_EQ(fit.coefficients[0], 0);
  EXPECT_GT(fit.coefficients[1], 0);
  EXPECT_GT(fit.error_max, 0);
}

TEST(FitTest, TermsThatCannotBeToldApartAreCountedOnce) {
  const std::vector<FitPoint> points = {{{1, 2}, 4}, {{2, 4}, 8}};
  const Fit fit = FitCosts(points);
  EXPECT_NEAR(fit.Predict({3, 6}), 12, 1e-9);
}

TEST(LineChartTest, TextIsEscapedAndLinesAreDrawn) {
  LineChart chart = {"a < b", "x & y", "\"y\"", {{"one", {{1, 2}, {4, 3}}, false, 0},
                                                 {"two", {{1, 2.5}}, true, 1}}};
  const std::string svg = DrawChart(chart);
  EXPECT_THAT(svg, HasSubstr("a &lt; b"));
  EXPECT_THAT(svg, HasSubstr("x &amp; y"));
  EXPECT_THAT(svg, HasSubstr("&quot;y&quot;"));
  EXPECT_THAT(svg, HasSubstr("<title>one, 4: 3</title>"));
  EXPECT_THAT(svg, HasSubstr("stroke-dasharray"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(DrawChart({}), HasSubstr("</svg>"));
}

// Two grids, both schedules, as the bench writes them; PCC twice and thrice as fast.
constexpr char kMeasured[] = R"({"bench":"moe_exchange","hosts":8,"ranks_per_host":2,
  "link_bits_per_second":200000000.0,"hidden":7168,"top_k":8,"experts":256,"iterations":15,
  "points":[
  {"ranks":16,"tp":2,"schedule":"naive","tokens":64,"messages":30,"link_bytes":5000000,
   "seconds":0.2,"seconds_min":0.19,"gather_seconds":0.0},
  {"ranks":16,"tp":2,"schedule":"pcc","tokens":64,"messages":15,"link_bytes":2500000,
   "seconds":0.1,"seconds_min":0.09,"gather_seconds":0.01},
  {"ranks":16,"tp":4,"schedule":"naive","tokens":64,"messages":30,"link_bytes":7500000,
   "seconds":0.3,"seconds_min":0.29,"gather_seconds":0.0},
  {"ranks":16,"tp":4,"schedule":"pcc","tokens":64,"messages":9,"link_bytes":2500000,
   "seconds":0.1,"seconds_min":0.09,"gather_seconds":0.02}]})";

TEST(ExchangeReportTest, APageHasTheTableTheRatiosAndTheFit) {
  const auto measured = ParseExchangeMeasurements(kMeasured);
  ASSERT_TRUE(measured.ok()) << measured.status();
  const std::vector<ReportFile> files = WriteExchangeReport(*measured);
  ASSERT_EQ(files.size(), 3u);
  const std::string& page = files[0].text;
  EXPECT_THAT(page, HasSubstr("8 hosts x 2 ranks (network namespaces), links of 200 Mbit/s"));
  EXPECT_THAT(page, HasSubstr("| 16 | 2 | 64 | PCC | 15 | 2500 | 100.00 | 90.00 | 10.00 | 100.00 "
                              "| 2.00 | 1.6 |"));
  EXPECT_THAT(page, HasSubstr("| 3.00 (below) | 3.2 |"));
  // The times are those of the bytes alone.
  EXPECT_THAT(page, HasSubstr("| 0.000 | 0.0 | 1.000 | 0.0 % | 0.0 % |"));
  EXPECT_EQ(files[1].name, "exchange_by_l.svg");
  EXPECT_THAT(page, HasSubstr("(exchange_by_l.svg)"));
  EXPECT_THAT(files[1].text, HasSubstr("PCC, fitted"));
  EXPECT_THAT(files[2].text, HasSubstr("naive, L = 4"));
}

TEST(ExchangeReportTest, BadInputNamesTheField) {
  const auto error = [](const std::string& from, const std::string& to) {
    const std::string json = absl::StrReplaceAll(kMeasured, {{from, to}});
    return std::string(ParseExchangeMeasurements(json).status().message());
  };
  EXPECT_THAT(error("\"hosts\":8,", ""), HasSubstr("document.hosts is no number"));
  EXPECT_THAT(error("\"hosts\":8,", "\"hosts\":0,"), HasSubstr("document.hosts is out of range"));
  EXPECT_THAT(error("moe_exchange", "other"), HasSubstr("document.bench is not moe_exchange"));
  EXPECT_THAT(error("\"naive\"", "\"fast\""),
              HasSubstr("points[0].schedule is neither naive nor pcc"));
  EXPECT_THAT(error("\"seconds\":0.2", "\"seconds\":0"), HasSubstr("points[0].seconds is out"));
  EXPECT_THAT(error("\"points\"", "\"dots\""), HasSubstr("document.points is no list"));
  EXPECT_FALSE(ParseExchangeMeasurements("[]").ok());
  EXPECT_FALSE(ParseExchangeMeasurements("{").ok());
}

}  // namespace
}  // namespace conclave
