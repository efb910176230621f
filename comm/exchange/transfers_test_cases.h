// Cases for tests of transfers: grids with random maps, uneven nodes and routings in which some dp
// groups have no tokens. Values; any thread.
#pragma once

#include "comm/base/rng.h"
#include "comm/exchange/transfers.h"

namespace conclave {

inline constexpr int kTransferTestHidden = 16;

struct TransferCase {
  ParallelSpec spec;
  RankNodes nodes;
  LayerExperts layer;
  ExchangeRouting routing;
};

// p ranks, tp of them a dp group, `node_ranks` a node.
TransferCase MakeTransferCase(int p, int tp, int node_ranks, Rng& rng);

TransferOptions TransferTestOptions(TransferSchedule schedule,
                                    TwoLevelVariant variant = TwoLevelVariant::kNodeLeaders);

// Builds, and fails the test on an error.
LayerTransfers BuildCase(const TransferOptions& options, const TransferCase& c);

}  // namespace conclave
