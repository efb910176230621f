#include "comm/exchange/exchange_volume.h"

#include "comm/base/rng.h"
#include "comm/exchange/exchange_test_maps.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr int kHidden = 64;

ExchangeRouting MakeRouting(int dp, int tokens, int top_k, int experts) {
  Rng rng(7);
  ExchangeRouting routing;
  routing.top_k = top_k;
  for (int d = 0; d < dp; ++d) {
    routing.experts_by_dp.push_back(RandomRouting(tokens, top_k, experts, rng));
  }
  return routing;
}

// The claim of the paper: 1 peer instead of 7 and a quarter of the bytes at p = 8, L = 4.
TEST(ExchangeVolumeTest, PccSendsAQuarterToOnePeer) {
  ParallelSpec spec;
  spec.tp = 4;
  spec.dp = 2;
  const LayerExperts layer = EvenMap(64, 1, 8);
  const ExchangeRouting routing = MakeRouting(2, 256, 2, 64);
  const auto naive = CountExchange(ExchangeKind::kNaive, spec, layer, kHidden, routing);
  const auto pcc = CountExchange(ExchangeKind::kPcc, spec, layer, kHidden, routing);
  for (int rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(naive.ranks[rank].peers, 7);
    EXPECT_EQ(naive.ranks[rank].messages, 14);
    EXPECT_EQ(pcc.ranks[rank].peers, 1);
    EXPECT_EQ(pcc.ranks[rank].messages, 2);
    EXPECT_LE(pcc.ranks[rank].rows * 4, naive.ranks[rank].rows);
    EXPECT_LE(pcc.ranks[rank].bytes * 4, naive.ranks[rank].bytes);
    EXPECT_EQ(naive.ranks[rank].gather_bytes, 0);
    EXPECT_GT(pcc.ranks[rank].gather_bytes, 0);
  }
  // Every part row goes to the three others of its tp group.
  EXPECT_EQ(pcc.Total().gather_bytes, 2 * 256 * 2 * 3 * kHidden * 4);
}

TEST(ExchangeVolumeTest, OneRankSendsNothing) {
  const ParallelSpec spec;
  const LayerExperts layer = EvenMap(8, 1, 1);
  const ExchangeRouting routing = MakeRouting(1, 10, 2, 8);
  for (const ExchangeKind kind : {ExchangeKind::kNaive, ExchangeKind::kPcc}) {
    EXPECT_EQ(CountExchange(kind, spec, layer, kHidden, routing).Total(), RankVolume());
  }
}

TEST(ExchangeVolumeTest, WithoutTensorParallelismPccIsNaive) {
  ParallelSpec spec;
  spec.dp = 4;
  Rng rng(9);
  const LayerExperts layer = RandomMap(12, 2, 4, 2, rng);
  const ExchangeRouting routing = MakeRouting(4, 33, 3, 12);
  EXPECT_EQ(CountExchange(ExchangeKind::kPcc, spec, layer, kHidden, routing).ranks,
            CountExchange(ExchangeKind::kNaive, spec, layer, kHidden, routing).ranks);
}

}  // namespace
}  // namespace conclave
