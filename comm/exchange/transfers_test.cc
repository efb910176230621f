#include "comm/exchange/transfers.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "comm/base/rng.h"
#include "comm/exchange/exchange_test_maps.h"
#include "comm/exchange/transfers_test_cases.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr int kHidden = kTransferTestHidden;

using Case = TransferCase;

int OwnerOf(const LayerExperts& layer, int32_t expert, int slice, int32_t token) {
  const auto owners = layer.Owners({expert, slice});
  return owners[token % owners.size()];
}

struct Wanted {
  std::map<int, std::set<RowId>> rows_of;  // rank -> rows that its units need
  std::vector<int64_t> entries_of;
  std::vector<std::set<std::pair<int, int>>> units_of;
};

// Straight from the words of the header.
Wanted BruteForce(TransferSchedule schedule, const Case& c) {
  Wanted wanted;
  wanted.entries_of.resize(c.spec.StageSize());
  wanted.units_of.resize(c.spec.StageSize());
  for (int home = 0; home < c.spec.StageSize(); ++home) {
    const std::vector<int32_t>& experts = c.routing.experts_by_dp[home / c.spec.tp];
    for (size_t i = 0; i < experts.size(); ++i) {
      const int32_t token = static_cast<int32_t>(i) / c.routing.top_k;
      const int t = home % c.spec.tp;
      if (schedule == TransferSchedule::kTwoLevel && token % c.spec.tp != t) continue;
      for (int slice = 0; slice < c.spec.slices; ++slice) {
        const int owner = OwnerOf(c.layer, experts[i], slice, token);
        if (schedule == TransferSchedule::kPcc && owner % c.spec.tp != t) continue;
        wanted.rows_of[owner].insert({home, token});
        ++wanted.entries_of[owner];
        wanted.units_of[owner].insert({experts[i], slice});
      }
    }
  }
  return wanted;
}

// Plays the rounds: nobody sends what it has not, nobody receives a row twice, and in the end every
// owner has what it computes.
void CheckDelivery(const TransferOptions& asked, const Case& c) {
  TransferOptions options = asked;
  options.list_rows = true;
  const LayerTransfers built = BuildCase(options, c);
  ASSERT_EQ(built.dispatch.size(), built.dispatch_rows.size());
  std::vector<std::set<RowId>> has(c.spec.StageSize());
  const auto held = [&](int rank, RowId row) { return row.home == rank || has[rank].count(row); };
  for (int round = 0; round < built.rounds; ++round) {
    std::vector<std::pair<int, RowId>> arrived;
    for (size_t i = 0; i < built.dispatch.size(); ++i) {
      const Transfer& t = built.dispatch[i];
      if (t.round != round) continue;
      ASSERT_NE(t.from, t.to);
      ASSERT_EQ(t.rows, static_cast<int64_t>(built.dispatch_rows[i].size()));
      ASSERT_GT(t.rows, 0);
      for (const RowId row : built.dispatch_rows[i]) {
        ASSERT_TRUE(held(t.from, row)) << "round " << round << " from " << t.from;
        arrived.push_back({t.to, row});
      }
    }
    for (const auto& [rank, row] : arrived) {
      ASSERT_FALSE(held(rank, row)) << "twice to " << rank;
      has[rank].insert(row);
    }
  }
  const Wanted wanted = BruteForce(options.schedule, c);
  for (const auto& [rank, rows] : wanted.rows_of) {
    for (const RowId row : rows) ASSERT_TRUE(held(rank, row)) << "missing at " << rank;
  }
  for (int rank = 0; rank < c.spec.StageSize(); ++rank) {
    ASSERT_EQ(built.work[rank].entries, wanted.entries_of[rank]);
    ASSERT_EQ(built.work[rank].units, static_cast<int64_t>(wanted.units_of[rank].size()));
  }
}

void CheckBackwards(const LayerTransfers& built, bool sums) {
  std::set<std::tuple<int, int, int, int64_t, int64_t>> forth, back;
  for (const Transfer& t : built.dispatch) {
    forth.insert({t.round, t.from, t.to, sums ? t.rows : t.entries, t.entries});
    ASSERT_EQ(t.bytes, DispatchBytes(t.rows, t.entries, kHidden));
  }
  for (const Transfer& t : built.combine) {
    back.insert({built.rounds - 1 - t.round, t.to, t.from, t.rows, t.entries});
    ASSERT_EQ(t.bytes, CombineBytes(t.rows, kHidden));
  }
  ASSERT_EQ(forth, back);
  ASSERT_EQ(forth.size(), built.dispatch.size());
  for (const auto* list : {&built.dispatch, &built.combine, &built.gather}) {
    ASSERT_TRUE(std::is_sorted(list->begin(), list->end(), [](const auto& a, const auto& b) {
      return std::tie(a.round, a.from, a.to) < std::tie(b.round, b.from, b.to);
    }));
  }
}

// Every (p, L) with L a divisor of p <= 64.
template <typename Check>
void ForEveryGrid(const Check& check) {
  Rng rng(11);
  for (int p = 1; p <= 64; ++p) {
    for (int tp = 1; tp <= p; ++tp) {
      if (p % tp != 0) continue;
      const int node_ranks = 1 + static_cast<int>(rng.Below(9));  // the last node may be smaller
      Case c = MakeTransferCase(p, tp, node_ranks, rng);
      // Ranks of a node need not be neighbours.
      if (p % 3 == 0) std::reverse(c.nodes.begin(), c.nodes.begin() + p / 2);
      if (p % 5 == 0) std::swap(c.nodes.front(), c.nodes[p / 2]);
      SCOPED_TRACE("p=" + std::to_string(p) + " tp=" + std::to_string(tp));
      check(c);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(TransfersTest, EveryRowArrivesOnceAtEveryOwner) {
  ForEveryGrid([](const Case& c) {
    CheckDelivery(TransferTestOptions(TransferSchedule::kNaive), c);
    CheckDelivery(TransferTestOptions(TransferSchedule::kPcc), c);
    CheckDelivery(TransferTestOptions(TransferSchedule::kTwoLevel), c);
    CheckDelivery(TransferTestOptions(TransferSchedule::kTwoLevel, TwoLevelVariant::kGatherFirst),
                  c);
  });
}

TEST(TransfersTest, TheCombineIsTheDispatchBackwards) {
  ForEveryGrid([](const Case& c) {
    for (const bool empty : {false, true}) {
      for (const bool sums : {false, true}) {
        for (const TransferSchedule schedule :
             {TransferSchedule::kNaive, TransferSchedule::kPcc, TransferSchedule::kTwoLevel}) {
          TransferOptions options = TransferTestOptions(schedule);
          options.empty_messages = empty;
          options.sums_on_the_way = sums;
          options.variant = empty ? TwoLevelVariant::kGatherFirst : TwoLevelVariant::kNodeLeaders;
          CheckBackwards(BuildCase(options, c), sums && schedule == TransferSchedule::kTwoLevel);
        }
      }
    }
  });
}

TEST(TransfersTest, NaiveAndPccCountAsTheRuntime) {
  ForEveryGrid([](const Case& c) {
    for (const ExchangeKind kind : {ExchangeKind::kNaive, ExchangeKind::kPcc}) {
      TransferOptions options = TransferTestOptions(static_cast<TransferSchedule>(kind));
      options.empty_messages = true;
      const LayerTransfers built = BuildCase(options, c);
      std::vector<RankVolume> counted(c.spec.StageSize());
      std::vector<int64_t> sends(counted.size()), answers(counted.size());
      for (const Transfer& t : built.dispatch) {
        ++sends[t.from];
        counted[t.from].rows += t.rows;
        counted[t.from].bytes += t.bytes - (t.rows == 0 ? DispatchBytes(0, 0, kHidden) : 0);
      }
      for (const Transfer& t : built.combine) {
        ++answers[t.from];
        counted[t.from].bytes += t.bytes;
      }
      for (const Transfer& t : built.gather) counted[t.from].gather_bytes += t.bytes;
      ExchangeVolume runtime = CountExchange(kind, c.spec, c.layer, kHidden, c.routing);
      for (size_t rank = 0; rank < counted.size(); ++rank) {
        counted[rank].peers = std::max(sends[rank], answers[rank]);
        counted[rank].messages = sends[rank] + answers[rank];
        // CountExchange counts the headers of empty messages too.
        for (const Transfer& t : built.dispatch) {
          if (t.from == static_cast<int>(rank) && t.rows == 0) {
            counted[rank].bytes += DispatchBytes(0, 0, kHidden);
          }
        }
        ASSERT_EQ(counted[rank], runtime.ranks[rank]) << "rank " << rank;
      }
    }
  });
}

TEST(TransfersTest, PccHasAnLthOfThePeersAndRows) {
  Rng rng(3);
  for (const int tp : {1, 2, 4, 8, 16, 32, 64}) {
    Case c;
    c.spec.tp = tp;
    c.spec.dp = 64 / tp;
    c.layer = EvenMap(128, 1, 64);
    c.routing.top_k = 1;  // then each row has one owner, which one of the L ranks serves
    c.nodes.assign(64, 0);
    for (int d = 0; d < c.spec.dp; ++d) {
      c.routing.experts_by_dp.push_back(RandomRouting(40, 1, 128, rng));
    }
    TransferOptions options = TransferTestOptions(TransferSchedule::kPcc);
    options.empty_messages = true;
    std::map<int, int> peers;
    int64_t pcc_rows = 0, naive_rows = 0, own_group = 0;
    for (const Transfer& t : BuildCase(options, c).dispatch) {
      ++peers[t.from];
      pcc_rows += t.rows;
    }
    for (int rank = 0; rank < 64; ++rank) ASSERT_EQ(peers[rank], 64 / tp - 1);
    for (const Transfer& t : BuildCase(TransferTestOptions(TransferSchedule::kNaive), c).dispatch) {
      naive_rows += t.rows;
      if (t.from / tp == t.to / tp) own_group += t.rows;
    }
    EXPECT_EQ(pcc_rows * tp, naive_rows - own_group);
  }
}

TEST(TransfersTest, TwoLevelCrossesToEachNodeOnce) {
  ForEveryGrid([](const Case& c) {
    std::set<int> names(c.nodes.begin(), c.nodes.end());
    std::set<int> owning;
    for (const int32_t rank : c.layer.ranks()) owning.insert(c.nodes[rank]);
    for (const TwoLevelVariant variant :
         {TwoLevelVariant::kNodeLeaders, TwoLevelVariant::kGatherFirst}) {
      TransferOptions options = TransferTestOptions(TransferSchedule::kTwoLevel, variant);
      options.empty_messages = true;
      options.list_rows = true;
      const LayerTransfers built = BuildCase(options, c);
      std::map<int, int> crossings;  // per rank, or per node
      std::set<std::pair<RowId, int>> crossed;
      const bool leaders = variant == TwoLevelVariant::kNodeLeaders;
      for (size_t i = 0; i < built.dispatch.size(); ++i) {
        const Transfer& t = built.dispatch[i];
        if (c.nodes[t.from] == c.nodes[t.to]) continue;
        ASSERT_EQ(t.round, leaders ? 0 : 1);
        ++crossings[leaders ? t.from : c.nodes[t.from]];
        for (const RowId row : built.dispatch_rows[i]) {
          ASSERT_TRUE(crossed.insert({row, c.nodes[t.to]}).second);
        }
      }
      // (nodes - 1) a leader, when all nodes hold units.
      for (const int node : names) {
        const int want = static_cast<int>(owning.size() - owning.count(node));
        if (!leaders) {
          ASSERT_EQ(crossings[node], want);
          continue;
        }
        for (int rank = 0; rank < c.spec.StageSize(); ++rank) {
          if (c.nodes[rank] != node) continue;
          ASSERT_EQ(crossings[rank], want);
        }
      }
    }
  });
}

TEST(TransfersTest, PeerCountsAreThoseOfTheMessagesWithEmptyOnes) {
  ForEveryGrid([](const Case& c) {
    for (int kind = 0; kind < 4; ++kind) {
      TransferOptions options =
          TransferTestOptions(static_cast<TransferSchedule>(std::min(kind, 2)));
      if (kind == 3) options.variant = TwoLevelVariant::kGatherFirst;
      options.empty_messages = true;
      TransferBuilder builder(options, c.spec, c.nodes);
      LayerTransfers built;
      builder.BuildInto(c.layer, c.routing, built);
      const std::vector<int32_t> none(c.spec.StageSize());
      std::vector<RoundPeers> counts(builder.rounds(), {none, none});
      for (const Transfer& t : built.dispatch) {
        ++counts[t.round].sends[t.from];
        ++counts[t.round].receives[t.to];
      }
      ASSERT_EQ(builder.PeerCounts(c.layer), counts) << kind;
      // Without empty messages: the same less those, also from used memory.
      options.empty_messages = false;
      std::vector<Transfer> with_rows;
      for (const Transfer& t : built.dispatch) {
        if (t.rows > 0) with_rows.push_back(t);
      }
      TransferBuilder sparse(options, c.spec, c.nodes);
      sparse.BuildInto(c.layer, c.routing, built);
      sparse.BuildInto(c.layer, c.routing, built);
      ASSERT_EQ(built.dispatch, with_rows) << kind;
    }
  });
}

TEST(TransfersTest, LeadersOfGatherFirstTakeTurns) {
  Rng rng(5);
  Case c = MakeTransferCase(64, 1, 8, rng);
  c.layer = EvenMap(64, 1, 64);
  TransferOptions options =
      TransferTestOptions(TransferSchedule::kTwoLevel, TwoLevelVariant::kGatherFirst);
  options.empty_messages = true;
  for (auto& experts : c.routing.experts_by_dp) experts.clear();
  std::map<int, int> sends, receives;
  for (const Transfer& t : BuildCase(options, c).dispatch) {
    if (t.round != 1) continue;
    ++sends[t.from];
    ++receives[t.to];
  }
  // 8 nodes with 8 ranks each: 7 messages a node, no rank has more than one each way.
  for (const auto& [rank, count] : sends) EXPECT_EQ(count, 1) << rank;
  for (const auto& [rank, count] : receives) EXPECT_EQ(count, 1) << rank;
  EXPECT_EQ(sends.size(), 56u);
}

TEST(TransfersTest, SmallerElementsMakeSmallerMessages) {
  Rng rng(5);
  const Case c = MakeTransferCase(8, 2, 4, rng);
  TransferOptions options = TransferTestOptions(TransferSchedule::kTwoLevel);
  options.element_bytes = 2;
  for (const Transfer& t : BuildCase(options, c).dispatch) {
    EXPECT_EQ(t.bytes, 16 + 8 * t.entries + t.rows * kHidden * 2);
  }
}

// 1,024 ranks with 8 tokens each are a matter of milliseconds; a quadratic step would not end.
TEST(TransfersTest, AThousandRanks) {
  Rng rng(1);
  Case c;
  c.spec.dp = 1024;
  c.layer = EvenMap(2048, 1, 1024);
  c.routing.top_k = 8;
  for (int rank = 0; rank < 1024; ++rank) {
    c.nodes.push_back(rank / 8);
    c.routing.experts_by_dp.push_back(RandomRouting(8, 8, 2048, rng));
  }
  for (int kind = 0; kind < 4; ++kind) {
    TransferOptions options = TransferTestOptions(static_cast<TransferSchedule>(std::min(kind, 2)));
    if (kind == 3) options.variant = TwoLevelVariant::kGatherFirst;
    const LayerTransfers built = BuildCase(options, c);
    int64_t entries = 0;
    for (const RankWork& work : built.work) entries += work.entries;
    EXPECT_EQ(entries, 1024 * 64);
    EXPECT_GT(built.dispatch.size(), 30'000u) << kind;
  }
}

}  // namespace
}  // namespace conclave
