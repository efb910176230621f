// The loads of the bench: that they move what they say, on worlds of every size.
#include "comm/fabric/fabric_bench.h"

#include <vector>

#include "comm/fabric/fabric_bench_moe.h"
#include "comm/fabric/fabric_test_kit.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr BenchCalls kCalls = {.warmups = 1, .calls = 4};

TEST(FabricBenchTest, APairMovesItsMessages) {
  for (const FabricKind kind : {FabricKind::kLocal, FabricKind::kUcxShared, FabricKind::kUcxTcp}) {
    auto fabrics = MakeFabrics(kind, 2);
    RunRanks(fabrics, [](int rank, Fabric& fabric) {
      for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100'000}}) {
        const PairLoad load = {.peer = 1 - rank, .bytes = bytes, .window = 3, .calls = kCalls};
        const int64_t sent = fabric.counters().messages_sent;
        const auto one_way = TimePingPong(fabric, load);
        ASSERT_TRUE(one_way.ok()) << one_way.status();
        EXPECT_EQ(one_way->size(), 4u);
        EXPECT_EQ(fabric.counters().messages_sent - sent, 5);
        const auto windows = TimeStream(fabric, load);
        ASSERT_TRUE(windows.ok()) << windows.status();
        EXPECT_EQ(windows->size(), 4u);
        EXPECT_EQ(fabric.counters().messages_sent - sent, rank == 0 ? 5 + 5 * 3 : 5);
      }
    });
  }
}

TEST(FabricBenchTest, EveryCollectiveRunsOnEveryRank) {
  for (const int ranks : {1, 2, 3, 4}) {
    auto fabrics = MakeFabrics(FabricKind::kLocal, ranks);
    RunRanks(fabrics, [&](int rank, Fabric& fabric) {
      const FabricGroup group = WholeGroup(ranks, rank);
      for (const FabricCollectiveName& named : FabricCollectives()) {
        for (const size_t bytes : {size_t{0}, size_t{4}, size_t{70'001}}) {
          const CollectiveLoad load = {named.collective, bytes, kCalls};
          const auto seconds = TimeCollective(fabric, group, load);
          ASSERT_TRUE(seconds.ok()) << named.name << ": " << seconds.status();
          EXPECT_EQ(seconds->size(), 4u);
        }
      }
    });
  }
}

TEST(FabricBenchTest, TheSlowestRankCounts) {
  auto fabrics = MakeFabrics(FabricKind::kLocal, 3);
  RunRanks(fabrics, [](int rank, Fabric& fabric) {
    const auto slowest =
        SlowestOf(fabric, WholeGroup(3, rank), {1.0 + rank, 5.0 - rank, rank == 1 ? 9.0 : 0.0});
    ASSERT_TRUE(slowest.ok()) << slowest.status();
    EXPECT_EQ(*slowest, (std::vector<double>{3.0, 5.0, 9.0}));
  });
}

TEST(FabricBenchTest, EveryScheduleOfTheExchangeRuns) {
  for (const ExchangeKind kind : BenchExchangeKinds()) {
    for (const int tp : {1, 2, 4}) {
      auto fabrics = MakeFabrics(FabricKind::kLocal, 4);
      RunRanks(fabrics, [&](int rank, Fabric& fabric) {
        for (const int tokens : {0, 1, 9}) {
          const auto times = TimeMoeExchange(fabric, {.kind = kind,
                                                      .ranks = 4,
                                                      .tp = tp,
                                                      .nodes = 2,
                                                      .tokens = tokens,
                                                      .hidden = 24,
                                                      .top_k = 3,
                                                      .experts = 10,
                                                      .calls = kCalls});
          ASSERT_TRUE(times.ok()) << times.status();
          EXPECT_EQ(times->seconds.size(), 4u);
          if (tp < 4) EXPECT_GT(times->messages_per_call, 0);
        }
      });
    }
  }
}

TEST(FabricBenchTest, PccSendsAPartOfNaive) {
  std::vector<double> bytes;
  for (const ExchangeKind kind : {ExchangeKind::kNaive, ExchangeKind::kPcc}) {
    auto fabrics = MakeFabrics(FabricKind::kLocal, 4);
    std::vector<double> sent(4);
    RunRanks(fabrics, [&](int rank, Fabric& fabric) {
      const auto times = TimeMoeExchange(
          fabric, {.kind = kind, .ranks = 4, .tp = 2, .tokens = 64, .hidden = 64, .calls = kCalls});
      ASSERT_TRUE(times.ok()) << times.status();
      sent[rank] = times->messages_per_call;
    });
    bytes.push_back(sent[0]);
  }
  EXPECT_LT(bytes[1], bytes[0]);
}

TEST(FabricBenchTest, AnExchangeThatDoesNotFitIsRefused) {
  auto fabrics = MakeFabrics(FabricKind::kLocal, 1);
  for (const MoeLoad& load :
       {MoeLoad{.ranks = 3, .tp = 2}, MoeLoad{.tp = 0}, MoeLoad{.experts = 4}, MoeLoad{.hidden = 0},
        MoeLoad{.nodes = 0}, MoeLoad{.tokens = -1}}) {
    EXPECT_EQ(TimeMoeExchange(*fabrics[0], load).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(FabricBenchTest, PercentilesAreValuesOfTheList) {
  EXPECT_EQ(PercentileOf({}, 0.5), 0);
  EXPECT_EQ(PercentileOf({3}, 0.99), 3);
  EXPECT_EQ(PercentileOf({5, 1, 3}, 0), 1);
  EXPECT_EQ(PercentileOf({5, 1, 3}, 0.5), 3);
  EXPECT_EQ(PercentileOf({5, 1, 3}, 1), 5);
}

TEST(FabricBenchTest, LargerMessagesGetFewerCalls) {
  EXPECT_GT(CallsFor(64, 0.1).calls, CallsFor(1 << 20, 0.1).calls);
  EXPECT_GE(CallsFor(size_t{1} << 32, 0.1).calls, 10);
  EXPECT_LE(CallsFor(0, 1e9).calls, 50000);
}

}  // namespace
}  // namespace conclave
