#include "placement/forecast/link_queues.h"

#include "gtest/gtest.h"
#include "placement/forecast/forecast_test_inputs.h"

namespace conclave {
namespace {

constexpr double kFast = 100e9, kNetwork = 10e9, kPeer = 0.5e-6;
constexpr double kFastAlpha = 2e-6, kNetworkAlpha = 5e-6;

Transfer Message(int from, int to, int64_t bytes) {
  Transfer transfer;
  transfer.from = from;
  transfer.to = to;
  transfer.rows = 1;
  transfer.bytes = bytes;
  return transfer;
}

// Two nodes of two devices: 0, 1 and 2, 3.
std::vector<double> Deliver(const std::vector<Transfer>& transfers, std::vector<double> clock) {
  LinkQueues queues(SmallCluster(2, 2), {0, 1, 2, 3});
  std::vector<int32_t> sends(4), receives(4);
  for (const Transfer& transfer : transfers) {
    ++sends[transfer.from];
    ++receives[transfer.to];
  }
  queues.Run({.transfers = transfers, .sends = sends, .receives = receives}, clock);
  return clock;
}

TEST(LinkQueuesTest, OneMessageTakesWorkLatencyAndBytes) {
  const std::vector<double> fast = Deliver({Message(0, 1, 1'000'000)}, {0, 0, 0, 0});
  EXPECT_DOUBLE_EQ(fast[1], kPeer + kFastAlpha + 1e6 / kFast);
  EXPECT_DOUBLE_EQ(fast[0], kPeer + 1e6 / kFast);  // away
  EXPECT_EQ(fast[2], 0);
  const std::vector<double> network = Deliver({Message(0, 3, 1'000'000)}, {0, 0, 0, 0});
  EXPECT_DOUBLE_EQ(network[3], kPeer + kNetworkAlpha + 1e6 / kNetwork);
}

TEST(LinkQueuesTest, MessagesQueueAtTheSendingPort) {
  const std::vector<double> clock =
      Deliver({Message(0, 2, 1'000'000), Message(0, 3, 1'000'000)}, {0, 0, 0, 0});
  EXPECT_DOUBLE_EQ(clock[2], kPeer + kNetworkAlpha + 1e6 / kNetwork);
  EXPECT_DOUBLE_EQ(clock[3], kPeer + kNetworkAlpha + 2e6 / kNetwork);
}

TEST(LinkQueuesTest, MessagesQueueAtTheReceivingPort) {
  const std::vector<double> clock =
      Deliver({Message(0, 2, 1'000'000), Message(1, 2, 1'000'000)}, {0, 0, 0, 0});
  EXPECT_DOUBLE_EQ(clock[2], kPeer + kNetworkAlpha + 2e6 / kNetwork);
}

TEST(LinkQueuesTest, LinkClassesDoNotWaitForOneAnother) {
  const std::vector<double> clock =
      Deliver({Message(0, 1, 1'000'000), Message(0, 2, 1'000'000)}, {0, 0, 0, 0});
  EXPECT_DOUBLE_EQ(
      clock[1], 2 * kPeer + kFastAlpha + 1e6 / kFast - kPeer);  // the first message, its own port
  EXPECT_DOUBLE_EQ(clock[2], 2 * kPeer + kNetworkAlpha + 1e6 / kNetwork);
}

TEST(LinkQueuesTest, ALateSenderDelaysOnlyItsReceivers) {
  const std::vector<double> clock =
      Deliver({Message(0, 1, 1000), Message(3, 2, 1000)}, {0, 0, 0, 1});
  EXPECT_GT(clock[2], 1);
  EXPECT_LT(clock[0], 1e-4);
}

// Rank 2 sends late to 0, rank 1 early: the early one does not wait.
TEST(LinkQueuesTest, ReceivingIsInOrderOfArrival) {
  LinkQueues queues(SmallCluster(4, 1), {0, 1, 2, 3});
  const std::vector<Transfer> transfers = {Message(1, 0, 1'000'000), Message(2, 0, 1'000'000),
                                           Message(3, 0, 1'000'000)};
  const std::vector<int32_t> sends = {0, 1, 1, 1}, receives = {3, 0, 0, 0};
  std::vector<double> clock = {0, 1, 2, 0};
  queues.Run({.transfers = transfers, .sends = sends, .receives = receives}, clock);
  EXPECT_DOUBLE_EQ(clock[0], 2 + kPeer + kNetworkAlpha + 1e6 / kNetwork);
}

TEST(LinkQueuesTest, MessagesWithoutRowsCostWorkAndMeeting) {
  LinkQueues queues(SmallCluster(2, 2), {0, 1, 2, 3});
  const std::vector<int32_t> three(4, 3);
  std::vector<double> clock = {0, 1, 0, 0};
  queues.Run({.transfers = {}, .sends = three, .receives = three}, clock);
  for (const double done : clock) EXPECT_DOUBLE_EQ(done, 1 + 3 * kPeer + kNetworkAlpha);
}

TEST(LinkQueuesTest, BytesAreScaledAndSummed) {
  LinkQueues queues(SmallCluster(2, 2), {0, 1, 2, 3});
  const std::vector<Transfer> transfers = {Message(0, 2, 1000)};
  const std::vector<int32_t> sends = {1, 0, 0, 0}, receives = {0, 0, 1, 0};
  std::vector<double> clock(4, 0.0);
  for (int i = 0; i < 2; ++i) {
    queues.Run({.transfers = transfers, .sends = sends, .receives = receives, .scale = 3}, clock);
  }
  EXPECT_DOUBLE_EQ(queues.pair_bytes()[0 * 4 + 2], 6000);
  EXPECT_EQ(queues.ClassOf(0, 2), LinkClass::kNetwork);
  EXPECT_EQ(queues.ClassOf(0, 1), LinkClass::kFast);
}

}  // namespace
}  // namespace conclave
