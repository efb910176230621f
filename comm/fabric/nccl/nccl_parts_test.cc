// The pieces of the fabric: headers of an exchange, and the staging of host spans.
#include <cstring>
#include <vector>

#include "comm/base/rng.h"
#include "comm/fabric/nccl/exchange_header.h"
#include "comm/fabric/nccl/fake_nccl.h"
#include "comm/fabric/nccl/nccl_stager.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ExchangeHeaderTest, MessagesAreListedByPeerInTheirOrder) {
  const std::vector<uint8_t> bytes(4);
  const std::vector<SendBuffer> sends = {{5, bytes}, {2, bytes}, {0, bytes}, {5, bytes}, {2, {}}};
  const auto peers = MessagesByPeer(absl::Span<const SendBuffer>(sends), 0);
  ASSERT_EQ(peers.size(), 2u);
  EXPECT_EQ(peers[0].peer, 2);
  EXPECT_THAT(peers[0].items, ElementsAre(1, 4));
  EXPECT_EQ(peers[1].peer, 5);
  EXPECT_THAT(peers[1].items, ElementsAre(0, 3));
}

TEST(ExchangeHeaderTest, SizesBeyondTheHeaderAreTheRest) {
  PeerMessages peer;
  EXPECT_EQ(peer.rest(), 0u);
  peer.items.resize(ExchangeHeader::kSizesMax);
  EXPECT_EQ(peer.rest(), 0u);
  peer.items.resize(ExchangeHeader::kSizesMax + 3);
  EXPECT_EQ(peer.rest(), 3u);
}

TEST(ExchangeHeaderTest, AnotherExchangeOrCountIsRefused) {
  ExchangeHeader header;
  EXPECT_FALSE(HeaderArrived(header, 0));
  header.magic = ExchangeHeader::kMagic;
  header.number = 7;
  header.messages = 2;
  const PeerMessages due = {3, {0, 1}};
  const FabricOp op = {"moe_dispatch", 4};
  EXPECT_TRUE(HeaderArrived(header, 7));
  EXPECT_FALSE(HeaderArrived(header, 8));
  EXPECT_EQ(CheckHeader(header, 7, due, 1, op), absl::OkStatus());
  EXPECT_THAT(std::string(CheckHeader(header, 8, due, 1, op).message()),
              HasSubstr("fabric rank 1: moe_dispatch of layer 4: rank 3 is at exchange 7 with this "
                        "rank, which is at 8"));
  header.messages = 5;
  const absl::Status status = CheckHeader(header, 7, due, 1, op);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 3 sends 5 messages where 2 are due"));
}

class StagerTest : public testing::Test {
 protected:
  void Drain() {
    while (!device_->Done().value()) {
    }
  }
  // Reads or writes memory that NCCL would.
  std::vector<uint8_t> Read(size_t place, size_t bytes) {
    return {stager_.device(place), stager_.device(place) + bytes};
  }

  std::shared_ptr<FakeNccl> nccl_ = FakeNccl::Create();
  std::unique_ptr<NcclDevice> device_ = nccl_->CreateDevice(0);
  NcclStager stager_{*device_};
};

TEST_F(StagerTest, DeviceSpansGoAsTheyAre) {
  const NcclMemory memory = device_->Allocate(100, NcclDevice::Sides::kDevice).value();
  const absl::Span<uint8_t> span(memory.device + 10, 50);
  const size_t in = stager_.AddIn(span);
  const size_t out = stager_.AddOut(span);
  ASSERT_EQ(stager_.Map(), absl::OkStatus());
  EXPECT_EQ(stager_.device(in), memory.device + 10);
  EXPECT_EQ(stager_.device(out), memory.device + 10);
  ASSERT_EQ(stager_.CopyBack(), absl::OkStatus());
  EXPECT_TRUE(device_->Done().value());
}

TEST_F(StagerTest, HostSpansOfAllUsesComeAndGo) {
  for (uint64_t round = 0; round < 50; ++round) {
    Rng rng(round);
    std::vector<std::vector<uint8_t>> spans;
    std::vector<size_t> places;
    std::vector<int> uses;
    stager_.Clear();
    for (int i = 0; i < 12; ++i) {
      spans.emplace_back(rng.Below(round % 5 == 0 ? 4 : 300), static_cast<uint8_t>(i + 1));
      uses.push_back(static_cast<int>(rng.Below(3)));
    }
    for (int i = 0; i < 12; ++i) {
      const absl::Span<uint8_t> span = absl::MakeSpan(spans[i]);
      places.push_back(uses[i] == 0   ? stager_.AddIn(span)
                       : uses[i] == 1 ? stager_.AddInOut(span)
                                      : stager_.AddOut(span));
    }
    ASSERT_EQ(stager_.Map(), absl::OkStatus());
    Drain();
    for (int i = 0; i < 12; ++i) {
      if (uses[i] < 2) EXPECT_EQ(Read(places[i], spans[i].size()), spans[i]);
      if (uses[i] > 0 && !spans[i].empty()) {
        std::memset(stager_.device(places[i]), 100 + i, spans[i].size());
      }
    }
    ASSERT_EQ(stager_.CopyBack(), absl::OkStatus());
    Drain();
    stager_.Finish();
    for (int i = 0; i < 12; ++i) {
      const uint8_t expected = static_cast<uint8_t>(uses[i] == 0 ? i + 1 : 100 + i);
      EXPECT_EQ(spans[i], std::vector<uint8_t>(spans[i].size(), expected)) << round << " " << i;
    }
  }
}

}  // namespace
}  // namespace conclave
