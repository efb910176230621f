// What goes wrong on a fabric ends in time, with an error that says who waited for whom.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "comm/fabric/fabric_test_kit.h"
#include "comm/fabric/local_fabric.h"
#include "comm/fabric/ucx_fabric.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class FabricErrorsTest : public testing::TestWithParam<FabricKind> {};

TEST_P(FabricErrorsTest, DeadlineNamesRankOperationLayerAndPeer) {
  auto fabrics = MakeFabrics(GetParam(), 3);
  std::vector<uint8_t> bytes(10);
  std::vector<RecvBuffer> recvs = {{2, absl::MakeSpan(bytes)}};
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status =
      fabrics[1]->Exchange({}, absl::MakeSpan(recvs), {"moe_dispatch", 7, absl::Milliseconds(100)});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("fabric rank 1: moe_dispatch of layer 7: no message from rank 2 within "
                        "100ms"));
  EXPECT_GE(SecondsSince(start), 0.1);
  EXPECT_LT(SecondsSince(start), 0.5);
  // Dead from now on, without waiting.
  std::vector<float> data(4);
  EXPECT_EQ(fabrics[1]->AllReduceSum(WholeGroup(3, 1), absl::MakeSpan(data), {"next", 8}), status);
}

TEST_P(FabricErrorsTest, DeadlineOfACollectiveNamesWhoIsMissing) {
  if (GetParam() == FabricKind::kNcclFake) GTEST_SKIP() << "NCCL tells not who of a group";
  auto fabrics = MakeFabrics(GetParam(), 4);
  RunRanks(fabrics, [](int rank, Fabric& fabric) {
    if (rank == 3) return;
    std::vector<float> data(100);
    const absl::Status status = fabric.AllReduceSum(WholeGroup(4, rank), absl::MakeSpan(data),
                                                    {"tp_reduce", 0, absl::Milliseconds(200)});
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(status.message()), HasSubstr("tp_reduce of layer 0"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 3 "));
  });
}

TEST_P(FabricErrorsTest, LargeMessageNobodyTakes) {
  auto fabrics = MakeFabrics(GetParam(), 2);
  const std::vector<uint8_t> bytes(1 << 20, 1);
  std::vector<uint8_t> in(1 << 20);
  std::vector<SendBuffer> sends(40, {1, bytes});
  std::vector<RecvBuffer> recvs = {{1, absl::MakeSpan(in)}};
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status =
      fabrics[0]->Exchange(sends, absl::MakeSpan(recvs), {"send", 1, absl::Milliseconds(100)});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
  EXPECT_LT(SecondsSince(start), 2.0);
  const auto teardown = std::chrono::steady_clock::now();
  fabrics.clear();
  EXPECT_LT(SecondsSince(teardown), 0.4);
}

TEST_P(FabricErrorsTest, CancelWakesAWait) {
  auto fabrics = MakeFabrics(GetParam(), 2);
  absl::Notification started;
  std::chrono::steady_clock::time_point cancelled;
  std::thread other([&] {
    started.WaitForNotification();
    cancelled = std::chrono::steady_clock::now();
    fabrics[0]->Cancel(absl::AbortedError("epoch-4 is abandoned"));
  });
  std::vector<uint8_t> bytes(10);
  std::vector<RecvBuffer> recvs = {{1, absl::MakeSpan(bytes)}};
  started.Notify();
  const absl::Status status =
      fabrics[0]->Exchange({}, absl::MakeSpan(recvs), {"moe_combine", 2, absl::Seconds(20)});
  const auto woken = std::chrono::steady_clock::now();
  other.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("fabric rank 0: moe_combine of layer 2: cancelled: epoch-4 is abandoned"));
  EXPECT_LT(woken - cancelled, std::chrono::milliseconds(250));
}

TEST_P(FabricErrorsTest, CancelFailsLaterOperationsToo) {
  for (const int ranks : {1, 2}) {
    auto fabrics = MakeFabrics(GetParam(), ranks);
    fabrics[0]->Cancel(absl::AbortedError("first"));
    fabrics[0]->Cancel(absl::AbortedError("second"));
    std::vector<float> data(4);
    const absl::Status status =
        fabrics[0]->AllReduceSum(WholeGroup(ranks, 0), absl::MakeSpan(data), {"reduce", 2});
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("first"));
  }
}

TEST_P(FabricErrorsTest, MessageLongerThanItsBuffer) {
  for (const size_t size : {size_t{101}, size_t{50000}, size_t{4} << 20}) {
    auto fabrics = MakeFabrics(GetParam(), 2);
    RunRanks(fabrics, [size](int rank, Fabric& fabric) {
      const std::vector<uint8_t> out(size);
      std::vector<uint8_t> in(100);
      if (rank == 0) {
        const std::vector<SendBuffer> sends = {{1, out}};
        // May succeed (the bytes left) or fail with the receiver; it must end.
        (void)fabric.Exchange(sends, {}, {"moe_dispatch", 5, absl::Milliseconds(500)});
        return;
      }
      std::vector<RecvBuffer> recvs = {{0, absl::MakeSpan(in)}};
      const absl::Status status =
          fabric.Exchange({}, absl::MakeSpan(recvs), {"moe_dispatch", 5, absl::Seconds(5)});
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("fabric rank 1: moe_dispatch of layer 5: the message of rank 0 is "
                            "longer than the 100 bytes"));
    });
  }
}

TEST_P(FabricErrorsTest, ShortPartOfACollective) {
  if (GetParam() == FabricKind::kNcclFake) GTEST_SKIP() << "NCCL does not compare sizes";
  auto fabrics = MakeFabrics(GetParam(), 2);
  RunRanks(fabrics, [](int rank, Fabric& fabric) {
    std::vector<uint8_t> data(rank == 0 ? 5 : 10);
    const absl::Status status =
        fabric.Broadcast(WholeGroup(2, rank), 0, absl::MakeSpan(data), {"broadcast", 5});
    if (rank == 0) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0 sent 5 bytes where 10 were due"));
  });
}

INSTANTIATE_TEST_SUITE_P(All, FabricErrorsTest,
                         testing::Values(FabricKind::kLocal, FabricKind::kUcxShared,
                                         FabricKind::kUcxTcp, FabricKind::kNcclFake),
                         [](const auto& info) { return FabricKindName(info.param); });

TEST(LocalFabricTest, APeerThatLeavesIsNamedAtOnce) {
  auto fabrics = CreateLocalFabrics(2);
  fabrics[1].reset();
  std::vector<uint8_t> bytes(10);
  std::vector<RecvBuffer> recvs = {{1, absl::MakeSpan(bytes)}};
  const absl::Status status =
      fabrics[0]->Exchange({}, absl::MakeSpan(recvs), {"recv", 0, absl::Seconds(20)});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 has gone"));
}

TEST(LocalFabricTest, HubJoinsEndpointsOfOneEpoch) {
  const auto hub = LocalFabricHub::Create();
  std::vector<std::unique_ptr<FabricEndpoint>> endpoints;
  FabricEndpoint::Peers peers;
  for (int rank = 0; rank < 2; ++rank) {
    endpoints.push_back(hub->CreateEndpoint());
    peers.addresses.push_back(endpoints[rank]->Address());
    peers.nodes.push_back("node");
  }
  std::vector<std::unique_ptr<Fabric>> fabrics;
  for (int rank = 0; rank < 2; ++rank) {
    peers.rank = rank;
    fabrics.push_back(endpoints[rank]->Connect(peers).value());
  }
  RunRanks(fabrics, [](int rank, Fabric& fabric) {
    std::vector<float> data = {1.0f + rank};
    ASSERT_TRUE(fabric.AllReduceSum(WholeGroup(2, rank), absl::MakeSpan(data), {"sum"}).ok());
    EXPECT_EQ(data[0], 3.0f);
  });
  peers.rank = 0;
  EXPECT_EQ(endpoints[1]->Connect(peers).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(UcxFabricTest, RefusesBadPeers) {
  const auto connect = [](FabricEndpoint::Peers peers, bool own_first) {
    auto endpoint = CreateUcxEndpoint({}).value();
    if (own_first) peers.addresses[0] = endpoint->Address();
    return endpoint->Connect(peers).status();
  };
  EXPECT_THAT(std::string(connect({{"", "x"}, {"a", "a"}, 0, 1}, false).message()),
              HasSubstr("rank 0 of 2 is not this endpoint"));
  EXPECT_THAT(std::string(connect({{"", "x"}, {"a"}, 0, 1}, true).message()),
              HasSubstr("2 addresses and 1 nodes"));
  EXPECT_THAT(std::string(connect({{"", "x"}, {"a", "a"}, 0, 1}, true).message()),
              HasSubstr("the address of rank 1 (1 bytes) is not one of a UCX endpoint"));
  std::string cut = CreateUcxEndpoint({}).value()->Address();
  cut.pop_back();
  EXPECT_THAT(std::string(connect({{"", cut}, {"a", "a"}, 0, 1}, true).message()),
              HasSubstr("the address of rank 1"));
  EXPECT_EQ(connect({{}, {}, 0, 1}, false).code(), absl::StatusCode::kInvalidArgument);
}

TEST(UcxFabricTest, AWorldOfOneNeedsNoUcx) {
  UcxOptions options;
  options.world_size = 1;
  options.transports = "no_such_transport";  // would fail if UCX were started
  auto endpoint = CreateUcxEndpoint(options).value();
  const std::string address = endpoint->Address();
  auto fabric = endpoint->Connect({{address}, {"node"}, 0, 1}).value();
  std::vector<float> data = {1, 2, 3};
  ASSERT_TRUE(fabric->AllReduceSum(WholeGroup(1, 0), absl::MakeSpan(data), {"sum"}).ok());
  EXPECT_EQ(data, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(endpoint->Connect({{address, address}, {"n", "n"}, 0, 1}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(UcxFabricTest, UnknownTransportIsAnError) {
  UcxOptions options;
  options.transports = "no_such_transport";
  const auto endpoint = CreateUcxEndpoint(options);
  EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("starting UCX"));
}

// Two fabrics over the same addresses but of different epochs: a message of the older one is not
// taken for the newer's.
TEST(UcxFabricTest, EpochFencesMessages) {
  auto first = CreateUcxEndpoint({}).value();
  auto second = CreateUcxEndpoint({}).value();
  FabricEndpoint::Peers peers = {{first->Address(), second->Address()}, {"node", "node"}, 0, 5};
  auto old_fabric = first->Connect(peers).value();
  peers.rank = 1;
  peers.epoch = 6;
  auto new_fabric = second->Connect(peers).value();
  const std::vector<uint8_t> out(10, 1);
  const std::vector<SendBuffer> sends = {{1, out}};
  ASSERT_TRUE(old_fabric->Exchange(sends, {}, {"old", 0, absl::Seconds(5)}).ok());
  std::vector<uint8_t> in(10);
  std::vector<RecvBuffer> recvs = {{0, absl::MakeSpan(in)}};
  const absl::Status status =
      new_fabric->Exchange({}, absl::MakeSpan(recvs), {"new", 0, absl::Milliseconds(200)});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(in, std::vector<uint8_t>(10));
}

}  // namespace
}  // namespace conclave
