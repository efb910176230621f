#include "comm/base/rng.h"
#include "comm/exchange/exchange_test_maps.h"
#include "comm/exchange/transfers.h"
#include "comm/exchange/transfers_test_cases.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(BuildTransfersTest, InputFromOutsideIsChecked) {
  Rng rng(2);
  const TransferCase good = MakeTransferCase(8, 2, 4, rng);
  const TransferOptions options = TransferTestOptions(TransferSchedule::kPcc);
  const auto refused = [&](const TransferOptions& with, const TransferCase& c, const char* word) {
    const auto built = BuildTransfers(with, c.spec, c.nodes, c.layer, c.routing);
    ASSERT_EQ(built.status().code(), absl::StatusCode::kInvalidArgument) << word;
    EXPECT_NE(built.status().message().find(word), absl::string_view::npos) << built.status();
  };
  TransferOptions flat = options;
  flat.hidden = 0;
  refused(flat, good, "hidden");
  TransferOptions odd = options;
  odd.element_bytes = 0;
  refused(odd, good, "element_bytes");
  TransferCase c = good;
  c.spec.tp = 0;
  refused(options, c, "tp=0");
  c = good;
  c.nodes.pop_back();
  refused(options, c, "nodes");
  c = good;
  c.layer = RandomMap(8, 1, 64, 1, rng);
  refused(options, c, "owner");
  c = good;
  c.layer = LayerExperts();
  refused(options, c, "expert map");
  c = good;
  c.routing.experts_by_dp.pop_back();
  refused(options, c, "routing");
  c = good;
  c.routing.experts_by_dp[0].assign(c.routing.top_k, 99);
  refused(options, c, "99");
  c = good;
  c.routing.top_k = 3;
  c.routing.experts_by_dp[0].assign(4, 0);
  refused(options, c, "multiple");
}

}  // namespace
}  // namespace conclave
