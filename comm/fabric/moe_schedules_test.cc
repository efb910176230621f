// All schedules of MoeExchange over local fabrics: naive, PCC and two-level give the same bits in
// random grids on random nodes, and send the very messages that BuildTransfers lists.
#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/fabric/fabric_test_kit.h"
#include "comm/fabric/moe_exchange_test_kit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

constexpr ExchangeKind kKinds[] = {ExchangeKind::kNaive, ExchangeKind::kPcc,
                                   ExchangeKind::kTwoLevel};
constexpr PayloadFormat kPayloads[] = {PayloadFormat::kF32, PayloadFormat::kBf16,
                                       PayloadFormat::kInt8, PayloadFormat::kFp8};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Random cases over every grid of tp, dp in {1, 2, 3 (dp only), 4} with 1 or 2 slices.
template <typename Body>
void ForCases(int seeds, const Body& body) {
  for (const int tp : {1, 2, 4}) {
    for (const int dp : {1, 2, 3, 4}) {
      for (int seed = 0; seed < seeds; ++seed) {
        Rng rng(static_cast<uint64_t>(seed * 100 + tp * 10 + dp));
        MoeCaseOptions options;
        options.tp = tp;
        options.dp = dp;
        options.slices = 1 + seed % 2;
        options.nodes_max = 1 + seed % 4;
        options.hidden = seed % 3 == 0 ? 12 : 131;  // more than one group of fp8
        SCOPED_TRACE(absl::StrCat("tp ", tp, " dp ", dp, " seed ", seed));
        body(MakeMoeCase(options, rng));
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

class MoeSchedulesTest : public testing::TestWithParam<PayloadFormat> {};

TEST_P(MoeSchedulesTest, OutputsAreThoseOfADirectComputation) {
  ForCases(8, [&](const MoeCase& c) {
    for (const ExchangeKind kind : kKinds) {
      const ExpertMap map = {{c.layer}};
      auto fabrics = MakeFabrics(FabricKind::kLocal, c.spec.WorkerCount());
      RunRanks(fabrics, [&](int rank, Fabric& fabric) {
        MoeExchange exchange(fabric, map, ExchangeOptions(c, kind, GetParam(), rank));
        const std::vector<float> expected =
            DirectOutputs(c, kind, GetParam(), c.spec.PositionOf(rank).dp);
        EXPECT_TRUE(SameBits(RunMoeCase(exchange, c, rank), expected))
            << ExchangeKindName(kind) << " rank " << rank;
      });
    }
  });
}

// Every message of the run, by (round, receiver), is in the list, and the other way round.
TEST_P(MoeSchedulesTest, MessagesAreThoseOfTheTransfers) {
  const std::map<std::string, std::pair<bool, int>> rounds = {// of dispatch, of two rounds
                                                              {"moe_dispatch", {true, 0}},
                                                              {"moe_hand_on", {true, 1}},
                                                              {"moe_hand_back", {false, 0}},
                                                              {"moe_combine", {false, 1}}};
  using Sent = std::tuple<bool, int, int, int64_t>;  // dispatch, round, to, bytes
  ForCases(8, [&](const MoeCase& c) {
    for (const ExchangeKind kind : kKinds) {
      const auto listed =
          BuildTransfers(TransfersOf(c, kind, GetParam()), c.spec, c.nodes, c.layer, c.routing);
      ASSERT_TRUE(listed.ok()) << listed.status();
      // A stage of one rank rounds nothing, and sends nothing.
      const ExpertMap map = {{c.layer}};
      auto fabrics = MakeFabrics(FabricKind::kLocal, c.spec.WorkerCount());
      RunRanks(fabrics, [&](int rank, Fabric& fabric) {
        RecordingFabric recording(fabric);
        MoeExchange exchange(recording, map, ExchangeOptions(c, kind, GetParam(), rank));
        RunMoeCase(exchange, c, rank);
        std::vector<Sent> expected, sent;
        for (const Transfer& t : listed->dispatch) {
          if (t.from == rank) expected.emplace_back(true, t.round, t.to, t.bytes);
        }
        for (const Transfer& t : listed->combine) {
          if (t.from == rank) expected.emplace_back(false, t.round, t.to, t.bytes);
        }
        for (const RecordingFabric::Message& message : recording.messages()) {
          const auto [dispatch, round] = rounds.at(message.name);
          const int of_rounds = listed->rounds == 2 ? round : 0;
          sent.emplace_back(dispatch, of_rounds, message.to, message.bytes);
        }
        std::sort(expected.begin(), expected.end());
        std::sort(sent.begin(), sent.end());
        EXPECT_EQ(sent, expected) << ExchangeKindName(kind) << " rank " << rank;
        int64_t gather_messages = 0, gather_bytes = 0, bytes = 0;
        for (const Transfer& t : listed->gather) {
          gather_messages += t.from == rank;
          gather_bytes += t.from == rank ? t.bytes : 0;
        }
        for (const auto& [dispatch, round, to, size] : expected) bytes += size;
        const ExchangeStats stats = exchange.TakeStats();
        EXPECT_EQ(stats.exchanges, 2);
        EXPECT_EQ(stats.messages, static_cast<int64_t>(expected.size()));
        EXPECT_EQ(stats.bytes, bytes);
        EXPECT_EQ(stats.gather_bytes, gather_bytes) << ExchangeKindName(kind);
        EXPECT_EQ(fabric.counters().messages_sent, stats.messages + gather_messages);
        EXPECT_EQ(fabric.counters().bytes_sent, stats.bytes + gather_bytes);
      });
    }
  });
}

TEST_P(MoeSchedulesTest, NothingIsAllocatedAfterTheLargestStep) {
  ForCases(2, [&](const MoeCase& c) {
    for (const ExchangeKind kind : kKinds) {
      const ExpertMap map = {{c.layer}};
      MoeCase less = c;  // one token fewer wherever there are any
      for (int d = 0; d < c.spec.dp; ++d) {
        if (less.tokens_by_dp[d] == 0) continue;
        less.tokens_by_dp[d] -= 1;
        less.rows_by_dp[d].resize(less.tokens_by_dp[d] * c.hidden);
        less.weights_by_dp[d].resize(less.tokens_by_dp[d] * c.routing.top_k);
        less.routing.experts_by_dp[d].resize(less.weights_by_dp[d].size());
      }
      auto fabrics = MakeFabrics(FabricKind::kLocal, c.spec.WorkerCount());
      RunRanks(fabrics, [&](int rank, Fabric& fabric) {
        MoeExchange exchange(fabric, map, ExchangeOptions(c, kind, GetParam(), rank));
        RunMoeCase(exchange, c, rank);
        const size_t warm = exchange.BufferBytes();
        for (int repeat = 0; repeat < 3; ++repeat) {
          RunMoeCase(exchange, less, rank);
          RunMoeCase(exchange, c, rank);
          EXPECT_EQ(exchange.BufferBytes(), warm) << ExchangeKindName(kind) << " rank " << rank;
        }
      });
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Payloads, MoeSchedulesTest, testing::ValuesIn(kPayloads),
                         [](const testing::TestParamInfo<PayloadFormat>& info) {
                           return std::string(PayloadFormatName(info.param));
                         });

// 16 ranks on 4 nodes of 4: a rank sends one message to each other node, and those of its own.
TEST(MoeTwoLevelTest, ARowCrossesToANodeOnce) {
  Rng rng(3);
  MoeCaseOptions options;
  options.tp = 2;
  options.dp = 8;
  options.tokens_max = 30;
  MoeCase c = MakeMoeCase(options, rng);
  for (int rank = 0; rank < 16; ++rank) c.nodes[rank] = rank / 4;
  const ExpertMap map = {{c.layer}};
  auto fabrics = MakeFabrics(FabricKind::kLocal, 16);
  RunRanks(fabrics, [&](int rank, Fabric& fabric) {
    RecordingFabric recording(fabric);
    MoeExchange exchange(recording, map,
                         ExchangeOptions(c, ExchangeKind::kTwoLevel, PayloadFormat::kF32, rank));
    RunMoeCase(exchange, c, rank);
    int across = 0;
    for (const RecordingFabric::Message& message : recording.messages()) {
      const bool dispatch = message.name == "moe_dispatch" || message.name == "moe_hand_on";
      across += dispatch && message.to / 4 != rank / 4;
    }
    EXPECT_LE(across, 3);
  });
}

// Rank 1, which is on another node, asks for a copy that is not on this node.
TEST(MoeTwoLevelTest, ACopyOfAnotherNodeIsRefusedByName) {
  MoeCase c;
  c.spec.dp = 2;
  c.nodes = {0, 1};
  c.layer = LayerExperts(1, {{0}, {1}});
  c.routing = {{{0}, {0}}, 1};
  c.rows_by_dp = {std::vector<float>(12), std::vector<float>(12)};
  c.weights_by_dp = {{1}, {1}};
  c.tokens_by_dp = {1, 1};
  const ExpertMap map = {{c.layer}};
  auto fabrics = MakeFabrics(FabricKind::kLocal, 2);
  RunRanks(fabrics, [&](int rank, Fabric& fabric) {
    if (rank == 1) {
      DispatchToPeer to;
      to.tokens = {0};
      to.entries = {{0, 1, 0, 0, 0}};  // copy 1 is this rank's own
      std::vector<uint64_t> words(40), in(40);
      const auto bytes = absl::MakeSpan(reinterpret_cast<uint8_t*>(words.data()), 320);
      const uint8_t* row = reinterpret_cast<const uint8_t*>(c.rows_by_dp[1].data());
      const int64_t size = EncodeDispatch(to, {&row, 1}, c.hidden, bytes);
      const std::vector<SendBuffer> sends = {{0, bytes.first(size)}};
      std::vector<RecvBuffer> recvs = {{0, {reinterpret_cast<uint8_t*>(in.data()), 320}}};
      EXPECT_TRUE(fabric.Exchange(sends, absl::MakeSpan(recvs), {"wrong"}).ok());
      return;
    }
    MoeExchange exchange(fabric, map,
                         ExchangeOptions(c, ExchangeKind::kTwoLevel, PayloadFormat::kF32, 0));
    DispatchInput input;
    input.tokens = {c.rows_by_dp[0].data(), 1, c.hidden};
    input.experts = c.routing.experts_by_dp[0];
    input.tokens_by_dp = c.tokens_by_dp;
    const absl::Status status = exchange.Dispatch(input).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("rank 0: moe_dispatch of layer 0, from rank 1: MoE dispatch message: "
                          "copy 1 is of stage rank 1"));
  });
}

// A leader that never hands on is named, with the round and the layer, by those that wait.
TEST(MoeTwoLevelTest, ASilentLeaderIsNamed) {
  Rng rng(5);
  MoeCaseOptions options;
  options.dp = 3;
  MoeCase c = MakeMoeCase(options, rng);
  c.nodes = {0, 0, 1};  // rank 0 leads rank 2's rows into node 0
  c.layer = LayerExperts(1, std::vector<std::vector<int32_t>>(8, {1}));
  const ExpertMap map = {{c.layer}};
  auto fabrics = MakeFabrics(FabricKind::kLocal, 3);
  RunRanks(fabrics, [&](int rank, Fabric& fabric) {
    MoeExchangeOptions exchange_options =
        ExchangeOptions(c, ExchangeKind::kTwoLevel, PayloadFormat::kF32, rank);
    exchange_options.timeout = absl::Milliseconds(300);
    DispatchInput input;
    input.tokens = {c.rows_by_dp[rank].data(), c.tokens_by_dp[rank], c.hidden};
    input.experts = c.routing.experts_by_dp[rank];
    input.tokens_by_dp = c.tokens_by_dp;
    if (rank == 0) {
      // Takes part in the first round, then falls silent.
      const ExchangeSchedule schedule({ExchangeKind::kTwoLevel, c.spec, rank, c.nodes}, c.layer);
      const auto lists = schedule.Dispatch(input.experts, c.routing.top_k);
      std::vector<const uint8_t*> rows;
      for (int t = 0; t < c.tokens_by_dp[0]; ++t) {
        rows.push_back(reinterpret_cast<const uint8_t*>(input.tokens.row(t)));
      }
      std::vector<uint64_t> out(4000), in(4000);
      const auto bytes = absl::MakeSpan(reinterpret_cast<uint8_t*>(out.data()), 32000);
      ASSERT_EQ(schedule.peers().send_to, (std::vector<int>{1}));
      const DispatchToPeer& to = lists[0].stage_rank == 1 ? lists[0] : lists[1];
      const int64_t size = EncodeDispatch(to, rows, c.hidden, bytes);
      const std::vector<SendBuffer> sends = {{1, bytes.first(size)}};
      std::vector<RecvBuffer> recvs = {{2, {reinterpret_cast<uint8_t*>(in.data()), 32000}}};
      EXPECT_TRUE(fabric.Exchange(sends, absl::MakeSpan(recvs), {"moe_dispatch"}).ok());
      return;
    }
    MoeExchange exchange(fabric, map, exchange_options);
    const absl::Status status = exchange.Dispatch(input).status();
    if (rank == 1) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("rank 1: moe_hand_on of layer 0: no message from rank 0"));
    } else {
      EXPECT_TRUE(status.ok()) << status;
    }
  });
}

TEST(MoeTwoLevelTest, WeightsMustBeThere) {
  Rng rng(1);
  MoeCaseOptions options;
  options.tp = 2;
  MoeCase c = MakeMoeCase(options, rng);
  c.tokens_by_dp = {1};
  c.rows_by_dp = {std::vector<float>(c.hidden)};
  c.routing.experts_by_dp = {std::vector<int32_t>(c.routing.top_k, 0)};
  const ExpertMap map = {{c.layer}};
  auto fabrics = MakeFabrics(FabricKind::kLocal, 2);
  MoeExchange exchange(*fabrics[0], map,
                       ExchangeOptions(c, ExchangeKind::kTwoLevel, PayloadFormat::kF32, 0));
  DispatchInput input;
  input.tokens = {c.rows_by_dp[0].data(), 1, c.hidden};
  input.experts = c.routing.experts_by_dp[0];
  input.tokens_by_dp = c.tokens_by_dp;
  EXPECT_THAT(std::string(exchange.Dispatch(input).status().message()),
              HasSubstr("MoE dispatch: 0 weights for"));
}

}  // namespace
}  // namespace conclave
