#include "tools/cli/trace_file.h"

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace conclave {

std::string ChromeTrace(const std::vector<OpSpan>& spans) {
  double origin = 0;
  int ranks = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    origin = i == 0 ? spans[i].begin_us : std::min(origin, spans[i].begin_us);
    ranks = std::max(ranks, spans[i].rank + 1);
  }
  boost::json::array events;
  for (int rank = 0; rank < ranks; ++rank) {
    events.push_back({{"name", "process_name"},
                      {"ph", "M"},
                      {"pid", rank},
                      {"args", {{"name", absl::StrCat("worker ", rank).c_str()}}}});
  }
  for (const OpSpan& span : spans) {
    events.push_back(
        {{"name", span.name},
         {"ph", "X"},
         {"pid", span.rank},
         {"tid", 0},
         {"ts", span.begin_us - origin},
         {"dur", span.duration_us},
         {"args", {{"layer", span.layer}, {"bytes", span.bytes}, {"flops", span.flops}}}});
  }
  const boost::json::object out = {{"displayTimeUnit", "ns"}, {"traceEvents", std::move(events)}};
  return boost::json::serialize(out);
}

absl::Status WriteChromeTrace(const std::string& flag, const std::string& path,
                              const std::vector<OpSpan>& spans) {
  std::ofstream out(path);
  out << ChromeTrace(spans) << "\n";
  out.close();
  if (out.good()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " '", path, "' cannot be written; name a file in a writable folder"));
}

}  // namespace conclave
