#include "comm/exchange/transfers_test_cases.h"

#include "comm/exchange/exchange_test_maps.h"
#include "gtest/gtest.h"

namespace conclave {

TransferCase MakeTransferCase(int p, int tp, int node_ranks, Rng& rng) {
  TransferCase made;
  made.spec.tp = tp;
  made.spec.dp = p / tp;
  made.spec.slices = 1 + static_cast<int>(rng.Below(2));
  for (int rank = 0; rank < p; ++rank) made.nodes.push_back(rank / node_ranks);
  const int experts = 4 + static_cast<int>(rng.Below(20));
  made.layer = RandomMap(experts, made.spec.slices, p, 3, rng);
  made.routing.top_k = 1 + static_cast<int>(rng.Below(4));
  for (int d = 0; d < made.spec.dp; ++d) {
    const int tokens = static_cast<int>(rng.Below(6));  // some groups have none
    made.routing.experts_by_dp.push_back(RandomRouting(tokens, made.routing.top_k, experts, rng));
  }
  return made;
}

LayerTransfers BuildCase(const TransferOptions& options, const TransferCase& c) {
  auto built = BuildTransfers(options, c.spec, c.nodes, c.layer, c.routing);
  EXPECT_TRUE(built.ok()) << built.status();
  return built.ok() ? *built : LayerTransfers();
}

TransferOptions TransferTestOptions(TransferSchedule schedule, TwoLevelVariant variant) {
  TransferOptions options;
  options.schedule = schedule;
  options.variant = variant;
  options.hidden = kTransferTestHidden;
  return options;
}

}  // namespace conclave
