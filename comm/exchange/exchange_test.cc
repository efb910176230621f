#include "comm/exchange/exchange.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "comm/base/rng.h"
#include "comm/exchange/exchange_layout.h"
#include "comm/exchange/exchange_test_maps.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

ParallelSpec Grid(int tp, int dp, int slices = 1) {
  ParallelSpec spec;
  spec.tp = tp;
  spec.dp = dp;
  spec.slices = slices;
  return spec;
}

TEST(ExchangePeersTest, PccTalksToItsOwnTpIndexOnly) {
  const ParallelSpec spec = Grid(4, 2);
  const LayerExperts layer = EvenMap(16, 1, 8);
  for (int rank = 0; rank < 8; ++rank) {
    const ExchangeSchedule naive(ExchangeKind::kNaive, spec, layer, rank);
    const ExchangeSchedule pcc(ExchangeKind::kPcc, spec, layer, rank);
    EXPECT_EQ(naive.peers().send_to.size(), 7u);
    EXPECT_EQ(naive.peers().recv_from.size(), 7u);
    EXPECT_THAT(pcc.peers().send_to, ElementsAre((rank + 4) % 8));
    EXPECT_THAT(pcc.peers().recv_from, ElementsAre((rank + 4) % 8));
  }
}

TEST(ExchangePeersTest, DenseLayerHasNone) {
  const ExchangeSchedule schedule(ExchangeKind::kNaive, Grid(2, 2), LayerExperts(), 1);
  EXPECT_THAT(schedule.peers().send_to, IsEmpty());
  EXPECT_THAT(schedule.peers().recv_from, IsEmpty());
}

TEST(ExchangePeersTest, RanksWithoutUnitsAreNotSentTo) {
  const ParallelSpec spec = Grid(1, 3);
  const LayerExperts layer(1, {{0}, {2}});
  const ExchangeSchedule owner(ExchangeKind::kPcc, spec, layer, 0);
  EXPECT_THAT(owner.peers().send_to, ElementsAre(2));
  EXPECT_THAT(owner.peers().recv_from, ElementsAre(1, 2));
  const ExchangeSchedule idle(ExchangeKind::kPcc, spec, layer, 1);
  EXPECT_THAT(idle.peers().send_to, ElementsAre(0, 2));
  EXPECT_THAT(idle.peers().recv_from, IsEmpty());
}

TEST(ExchangeScheduleTest, KnownDispatch) {
  // Rank 0 owns experts 0 and 1, rank 1 owns 2.
  const LayerExperts layer(1, {{0}, {0}, {1}});
  const ExchangeSchedule schedule(ExchangeKind::kPcc, Grid(1, 2), layer, 0);
  // Token 0 chose 1 and 2, token 1 chose 2 and 0, token 2 chose 1 and 0.
  const auto out = schedule.Dispatch({1, 2, 2, 0, 1, 0}, 2);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].stage_rank, 0);
  EXPECT_THAT(out[0].tokens, ElementsAre(0, 1, 2));
  EXPECT_THAT(out[0].entries,
              ElementsAre(ExchangeEntry{1, 0, 1, 1, 0}, ExchangeEntry{2, 0, 2, 1, 0},
                          ExchangeEntry{0, 1, 0, 0, 0}, ExchangeEntry{2, 1, 2, 0, 0}));
  EXPECT_EQ(out[1].stage_rank, 1);
  EXPECT_THAT(out[1].tokens, ElementsAre(0, 1));
  EXPECT_THAT(out[1].entries,
              ElementsAre(ExchangeEntry{0, 0, 0, 1, 0}, ExchangeEntry{1, 0, 1, 0, 0}));
}

TEST(ExchangeScheduleTest, CopiesShareTheTokens) {
  const LayerExperts layer(1, {{0, 1, 2}});
  const ExchangeSchedule schedule(ExchangeKind::kNaive, Grid(1, 3), layer, 0);
  const auto out = schedule.Dispatch({0, 0, 0, 0, 0, 0}, 1);
  EXPECT_THAT(out[0].tokens, ElementsAre(0, 3));
  EXPECT_THAT(out[1].tokens, ElementsAre(1, 4));
  EXPECT_THAT(out[2].tokens, ElementsAre(2, 5));
}

TEST(ExchangeScheduleTest, BytesOfMessages) {
  EXPECT_EQ(DispatchBytes(0, 0, 64), 16);
  EXPECT_EQ(DispatchBytes(2, 3, 64), 16 + 3 * 8 + 2 * 64 * 4);
  EXPECT_EQ(CombineBytes(3, 64), 3 * 64 * 4);
}

using Work = std::tuple<int32_t, int32_t, int32_t>;  // token, choice, slice

// Checks what one rank sends and counts the work in `done`.
void CheckDispatch(const ExchangeSchedule& schedule, const LayerExperts& layer,
                   const std::vector<int32_t>& routing, int top_k, std::map<Work, int>& done) {
  const auto out = schedule.Dispatch(routing, top_k);
  std::set<int> allowed(schedule.peers().send_to.begin(), schedule.peers().send_to.end());
  int previous = -1;
  for (const DispatchToPeer& to : out) {
    EXPECT_GT(to.stage_rank, previous);
    previous = to.stage_rank;
    allowed.erase(to.stage_rank);
    // A token once, ascending.
    EXPECT_TRUE(std::is_sorted(to.tokens.begin(), to.tokens.end()));
    EXPECT_EQ(std::adjacent_find(to.tokens.begin(), to.tokens.end()), to.tokens.end());
    const std::vector<ExpertUnit> units = layer.UnitsOf(to.stage_rank);
    std::pair<int, int> last = {-1, -1};
    for (const ExchangeEntry& entry : to.entries) {
      EXPECT_LE(last, std::make_pair(entry.slot, entry.row));
      last = {entry.slot, entry.row};
      EXPECT_EQ(to.tokens[entry.row], entry.token);
      const ExpertUnit unit = {routing[entry.token * top_k + entry.choice], entry.slice};
      EXPECT_EQ(units[entry.slot], unit);
      EXPECT_TRUE(schedule.Handles(unit.expert, unit.slice, entry.token));
      ++done[{entry.token, entry.choice, entry.slice}];
    }
  }
  EXPECT_THAT(allowed, IsEmpty()) << "a peer without an element";
}

TEST(ExchangeScheduleTest, EveryChoiceIsHandledOnceForRandomMaps) {
  Rng rng(1);
  for (int round = 0; round < 150; ++round) {
    const ParallelSpec spec =
        Grid(1 << rng.Below(3), 1 + rng.Below(4), 1 + static_cast<int>(rng.Below(2)));
    const int experts = 1 + static_cast<int>(rng.Below(20));
    const int top_k = 1 + static_cast<int>(rng.Below(std::min(experts, 4)));
    const LayerExperts layer = RandomMap(experts, spec.slices, spec.StageSize(), 3, rng);
    const auto routing = RandomRouting(static_cast<int>(rng.Below(30)), top_k, experts, rng);
    for (int d = 0; d < spec.dp; ++d) {
      std::map<Work, int> over_group;
      for (int t = 0; t < spec.tp; ++t) {
        std::map<Work, int> alone;
        const int rank = spec.StageRankOf({0, d, t});
        CheckDispatch({ExchangeKind::kNaive, spec, layer, rank}, layer, routing, top_k, alone);
        EXPECT_EQ(alone.size(), routing.size() * spec.slices);
        for (const auto& [work, times] : alone) EXPECT_EQ(times, 1);
        const ExchangeSchedule pcc(ExchangeKind::kPcc, spec, layer, rank);
        std::map<Work, int> mine;
        CheckDispatch(pcc, layer, routing, top_k, mine);
        for (const auto& [work, times] : mine) {
          over_group[work] += times;
          const auto [token, choice, slice] = work;
          EXPECT_EQ(pcc.HolderTp(routing[token * top_k + choice], slice, token), t);
        }
      }
      EXPECT_EQ(over_group.size(), routing.size() * spec.slices);
      for (const auto& [work, times] : over_group) EXPECT_EQ(times, 1);
    }
  }
}

TEST(ExchangeScheduleTest, PeersAgreeWhoTalksToWhom) {
  Rng rng(2);
  for (int round = 0; round < 100; ++round) {
    const ParallelSpec spec = Grid(1 << rng.Below(3), 1 + rng.Below(4));
    const LayerExperts layer = RandomMap(6, 1, spec.StageSize(), 2, rng);
    for (const ExchangeKind kind : {ExchangeKind::kNaive, ExchangeKind::kPcc}) {
      std::set<std::pair<int, int>> sent, received;
      for (int rank = 0; rank < spec.StageSize(); ++rank) {
        const ExchangeSchedule schedule(kind, spec, layer, rank);
        for (const int to : schedule.peers().send_to) sent.insert({rank, to});
        for (const int from : schedule.peers().recv_from) received.insert({from, rank});
      }
      EXPECT_EQ(sent, received);
    }
  }
}

TEST(ExchangeScheduleTest, ReusedOutputEqualsAFreshOne) {
  Rng rng(3);
  const ParallelSpec spec = Grid(2, 2);
  const ExchangeSchedule schedule(ExchangeKind::kPcc, spec, EvenMap(8, 1, 4), 1);
  std::vector<DispatchToPeer> out;
  for (const int tokens : {20, 3, 0, 11}) {
    const auto routing = RandomRouting(tokens, 2, 8, rng);
    schedule.DispatchInto(routing, 2, out);
    EXPECT_EQ(out, schedule.Dispatch(routing, 2));
  }
}

}  // namespace
}  // namespace conclave
