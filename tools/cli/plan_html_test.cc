#include "tools/cli/plan_html.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/cli/plan_svg.h"
#include "tools/cli/plan_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::Not;

// "" when every element is closed in order and every & begins an entity; else what is wrong.
std::string WhatIsMalformed(const std::string& page) {
  std::vector<std::string> open;
  for (size_t at = 0; at < page.size(); ++at) {
    if (page[at] == '>') return "a bare > at " + page.substr(at, 40);
    if (page[at] == '&') {
      const size_t end = page.find(';', at);
      if (end == std::string::npos || end > at + 6) return "a bare & at " + page.substr(at, 40);
    }
    if (page[at] != '<') continue;
    const size_t end = page.find('>', at);
    if (end == std::string::npos) return "an open tag at " + page.substr(at, 40);
    const std::string tag = page.substr(at + 1, end - at - 1);
    at = end;
    if (tag[0] == '!') continue;
    if (tag.find('<') != std::string::npos) return "a < inside " + tag;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "a stray </" + tag.substr(1);
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
  }
  return open.empty() ? "" : "unclosed " + open.back();
}

TEST(PlanHtmlTest, ThePageIsWellFormedAndSelfContained) {
  const std::string page = RenderPlanHtml(MadeUpDocument());
  EXPECT_EQ(WhatIsMalformed(page), "");
  for (const char* part : {"<script", "http:", "https:", "src=", "href=", "@import", "url("}) {
    EXPECT_THAT(page, Not(HasSubstr(part)));
  }
  for (const char* part : {"prefers-color-scheme:dark", "tp=2,dp=2,pp=1,ep=4", "12.5 ms",
                           "Experts bind", "loses 60 % to &lt;more&gt; peers", "node-1",
                           "rank 3, stage 0, dp 1, tp 1", "attention weights", "made up"}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  EXPECT_EQ(page, RenderPlanHtml(MadeUpDocument()));
}

TEST(PlanHtmlTest, NamesFromOutsideAreEscaped) {
  PlanDocument document = MadeUpDocument();
  const std::string bad = "</title><script>alert('x')</script>&\"\x01";
  document.inputs.search.model.name = bad;
  document.inputs.search.cluster.name = bad;
  document.inputs.search.cluster.nodes[0].name = bad;
  document.inputs.search.cluster.profiles[0].name = bad;
  document.inputs.search.cluster.profiles[0].source = bad;
  document.result.reason = bad;
  document.result.runners_up[0].note = bad;
  const std::string page = RenderPlanHtml(document);
  EXPECT_EQ(WhatIsMalformed(page), "");
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_EQ(EscapeMarkup("a<b>&\"'\x01"), "a&lt;b&gt;&amp;&quot;&#39; ");
}

TEST(PlanHtmlTest, IdleDevicesAndLargeClustersAreDrawn) {
  const std::vector<int> half = {0, 1};
  const Candidate candidate = EvenCandidate({2, 1, 1, 1, 2}, ScheduleKind::kPcc, 4, half);
  const std::string small = ClusterDrawing(TinyCluster(2, 2), candidate);
  EXPECT_EQ(WhatIsMalformed(small), "");
  EXPECT_THAT(small, HasSubstr("node-1, device 3: not used"));
  const std::string large = ClusterDrawing(TinyCluster(128, 8), candidate);
  EXPECT_EQ(WhatIsMalformed(large), "");
  EXPECT_THAT(large, HasSubstr("node-127, device 1023"));
  EXPECT_THAT(large, Not(HasSubstr("class=\"cell\"")));
}

TEST(PlanHtmlTest, BarsNeverLeaveTheirTrack) {
  std::vector<BarPart> parts = {{"a", "1", 0.7, PaletteColour(0)}, {"b", "2", 0.9, {}}};
  const std::string bar = StackedBar(parts, {100, 10}, "bar");
  EXPECT_EQ(WhatIsMalformed(bar), "");
  EXPECT_THAT(bar, HasSubstr("x=\"70.00\" y=\"0\" width=\"28.50\""));
  parts[0].share = -1;
  EXPECT_THAT(StackedBar(parts, {100, 10}, "bar"), Not(HasSubstr("=\"-")));
}

}  // namespace
}  // namespace conclave
