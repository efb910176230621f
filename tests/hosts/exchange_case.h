// ExchangeCase: one MoE layer's exchange as a bench or a fault round runs it: a grid, a schedule, a
// batch whose rows and routing follow from a seed, so that every rank knows what every other holds
// and each result can be checked. The batch is that of the whole stage: it is divided among the dp
// groups, and the tp ranks of a group all hold its tokens. Values and plain functions; ExchangeRun
// belongs to one rank's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/exchange/exchange_volume.h"
#include "comm/fabric/moe_exchange.h"

namespace conclave {

struct ExchangeCase {
  int ranks = 16;
  int ranks_per_host = 2;  // neighbours; two-level goes by it
  int tp = 1;              // divides ranks
  ExchangeKind kind = ExchangeKind::kPcc;
  int tokens = 64;  // of all dp groups together
  int hidden = 7168;
  int top_k = 8;
  int experts = 256;
  uint64_t seed = 1;
  absl::Duration timeout = absl::Seconds(1);  // of each operation

  ParallelSpec spec() const;
  RankNodes hosts() const;  // of every rank
  std::string ToString() const;  // one line that ParseExchangeCase reads
  bool operator==(const ExchangeCase&) const = default;
};

// InvalidArgument names the field that does not fit.
absl::StatusOr<ExchangeCase> ParseExchangeCase(absl::string_view text);

// What each dp group chooses.
ExchangeRouting RoutingOf(const ExchangeCase& what);

// What the schedule asks of the network, by the exact list of messages (comm/exchange/transfers.h).
struct ExchangeDemand {
  int64_t messages = 0;    // most that a rank sends: dispatch, combine and gather
  int64_t link_bytes = 0;  // that cross the busiest direction of the busiest host's link
};
ExchangeDemand DemandOf(const ExchangeCase& what);

// A rank's part of one case, to be run again and again.
class ExchangeRun {
 public:
  // `fabric` outlives this.
  ExchangeRun(Fabric& fabric, const ExchangeCase& what);

  absl::Status Dispatch(int layer = 0);
  // After Dispatch: applies the experts. Not part of what is timed; results are kept, since the
  // same batch is dispatched every time.
  void Compute();
  absl::Status Combine();
  // Internal when a result of the last Combine is not that of a direct computation.
  absl::Status Check() const;

 private:
  float Row(int64_t token, int column) const;

  const ExchangeCase what_;
  const GridPosition position_;
  const ExchangeRouting routing_;
  ExpertMap experts_;
  std::vector<ExpertUnit> units_;
  std::vector<int32_t> tokens_by_dp_;
  int64_t first_token_ = 0;  // of the rank's dp group, counted over the stage
  std::vector<float> rows_;
  std::vector<float> weights_;  // all 1: sums of what the experts give are exact then
  std::vector<float> computed_;
  std::unique_ptr<MoeExchange> exchange_;
  DispatchedEntries entries_;
  CombinedParts combined_;
};

}  // namespace conclave
