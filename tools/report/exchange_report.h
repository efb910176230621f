// ExchangeReport: what tests/hosts/exchange_bench measured, as a page of Markdown with charts: the
// times of naive and PCC exchanges against the number of ranks and the tensor parallel degree L,
// their ratio against the bound that PCC is to keep, and the fitted costs of the model
//
//   seconds = C0 + C1 * messages of a rank + C2 * (bytes over the busiest link) / bandwidth
//
// which has the form of the paper's (128 C1 + C2) -> (16 C1 + C2) (arXiv 2207.00032, V-B), with the
// bytes told apart. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/report/fit.h"

namespace conclave {

struct ExchangeMeasurement {
  int ranks = 0;
  int tp = 0;
  bool pcc = false;
  int tokens = 0;
  int64_t messages = 0;
  int64_t link_bytes = 0;
  double seconds = 0;         // median
  double seconds_min = 0;
  double gather_seconds = 0;  // of them in the tp group's gather
};

struct ExchangeMeasurements {
  int hosts = 0;
  int ranks_per_host = 0;
  double link_bits_per_second = 0;
  int hidden = 0;
  int top_k = 0;
  int experts = 0;
  int iterations = 0;
  std::vector<ExchangeMeasurement> points;
};

// InvalidArgument names the field that is missing or out of range.
absl::StatusOr<ExchangeMeasurements> ParseExchangeMeasurements(absl::string_view json);

Fit FitExchange(const ExchangeMeasurements& measured);

struct ReportFile {
  std::string name;
  std::string text;
};
// exchange.md and the drawings it shows.
std::vector<ReportFile> WriteExchangeReport(const ExchangeMeasurements& measured);

}  // namespace conclave
