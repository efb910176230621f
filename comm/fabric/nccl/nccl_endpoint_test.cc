// Addresses on the wire, what they must say before NCCL is asked, and connecting on the fake.
#include "comm/fabric/nccl/nccl_endpoint.h"

#include <string>
#include <thread>
#include <vector>

#include "comm/fabric/nccl/fake_nccl.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::AllOf;
using testing::HasSubstr;

NcclAddress AddressOf(int rank) {
  NcclAddress address;
  address.rank = rank;
  address.nccl_version = 22809;
  address.device.index = rank % 2;
  address.device.uuid[3] = static_cast<uint8_t>(rank + 1);
  address.device.bus_id[0] = static_cast<char>('a' + rank);
  address.device.host = 5;
  if (rank == 0) address.id = NcclUniqueId{{1, 2, 3}};
  return address;
}

std::vector<NcclAddress> Addresses(int ranks) {
  std::vector<NcclAddress> addresses;
  for (int rank = 0; rank < ranks; ++rank) addresses.push_back(AddressOf(rank));
  return addresses;
}

const std::vector<std::string> kNodes = {"node-a", "node-a", "node-b", "node-b"};

TEST(NcclAddressTest, RoundTrip) {
  for (const int rank : {0, 3}) {
    const NcclAddress address = AddressOf(rank);
    const auto parsed = ParseNcclAddress(EncodeNcclAddress(address), rank);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->rank, rank);
    EXPECT_EQ(parsed->nccl_version, 22809);
    EXPECT_EQ(parsed->device, address.device);
    EXPECT_EQ(parsed->id.has_value(), rank == 0);
    if (rank == 0) EXPECT_EQ(parsed->id->bytes[2], 3);
  }
}

TEST(NcclAddressTest, EveryChangedByteAndLengthIsRefused) {
  const std::string good = EncodeNcclAddress(AddressOf(0));
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x40);
    EXPECT_EQ(ParseNcclAddress(bad, 2).status().code(), absl::StatusCode::kInvalidArgument) << i;
    const auto cut = ParseNcclAddress(good.substr(0, i), 2);
    EXPECT_THAT(std::string(cut.status().message()),
                HasSubstr("the address of rank 2 (" + std::to_string(i) + " bytes) is not one of"));
  }
  EXPECT_FALSE(ParseNcclAddress(good + "x", 2).ok());
}

TEST(NcclPeersTest, AWorldOfDistinctGpusIsTaken) {
  EXPECT_EQ(CheckNcclPeers(Addresses(4), kNodes), absl::OkStatus());
}

TEST(NcclPeersTest, TwoRanksOnOneGpuAreNamed) {
  auto addresses = Addresses(4);
  addresses[3].device = addresses[1].device;
  const absl::Status status = CheckNcclPeers(addresses, kNodes);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("rank 1 (cuda:1 of node-a) and rank 3 (cuda:1 of node-b) are on one GPU, and "
                "NCCL takes one rank a GPU; give each worker a --device of its own, or use "
                "the UCX fabric"));
}

TEST(NcclPeersTest, PartsOfOneGpuAreOneGpu) {
  auto addresses = Addresses(3);
  addresses[2].device.bus_id = addresses[0].device.bus_id;
  EXPECT_THAT(std::string(CheckNcclPeers(addresses, kNodes).message()),
              AllOf(HasSubstr("rank 0 (cuda:0"), HasSubstr("rank 2 (cuda:0")));
  addresses[2].device.host = 6;  // the same slot of another machine
  EXPECT_EQ(CheckNcclPeers(addresses, kNodes), absl::OkStatus());
}

TEST(NcclPeersTest, VersionsMustAgreeUpToThePatch) {
  auto addresses = Addresses(3);
  addresses[1].nccl_version = 22807;
  EXPECT_EQ(CheckNcclPeers(addresses, kNodes), absl::OkStatus());
  addresses[2].nccl_version = 22705;
  EXPECT_THAT(std::string(CheckNcclPeers(addresses, kNodes).message()),
              HasSubstr("rank 0 has NCCL 2.28.9 and rank 2 (node-b) has 2.27.5"));
}

TEST(NcclPeersTest, RanksInPlaceAndAnId) {
  auto addresses = Addresses(2);
  std::swap(addresses[0], addresses[1]);
  EXPECT_THAT(std::string(CheckNcclPeers(addresses, kNodes).message()),
              HasSubstr("in place 0 is of rank 1"));
  addresses = Addresses(2);
  addresses[0].id.reset();
  EXPECT_THAT(std::string(CheckNcclPeers(addresses, kNodes).message()), HasSubstr("no NCCL id"));
  EXPECT_EQ(CheckNcclPeers({}, {}).code(), absl::StatusCode::kInvalidArgument);
}

// Ranks of one world on the fake.
class NcclEndpointTest : public testing::Test {
 protected:
  void Make(std::vector<int> gpus) {
    for (int rank = 0; rank < static_cast<int>(gpus.size()); ++rank) {
      NcclEndpointOptions options;
      options.rank = rank;
      options.fabric.spin = absl::ZeroDuration();
      options.fabric.connect_timeout = absl::Seconds(20);
      endpoints_.push_back(
          CreateNcclEndpoint(nccl_->Api(), nccl_->CreateDevice(gpus[rank]), options).value());
      peers_.addresses.push_back(endpoints_.back()->Address());
      peers_.nodes.push_back("node");
    }
  }
  // Each rank connects for its epoch.
  std::vector<absl::Status> Connect(std::vector<uint64_t> epochs) {
    std::vector<absl::Status> statuses(epochs.size());
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < epochs.size(); ++rank) {
      threads.emplace_back([&, rank, own = peers_]() mutable {
        own.rank = static_cast<int>(rank);
        own.epoch = epochs[rank];
        statuses[rank] = endpoints_[rank]->Connect(own).status();
      });
    }
    for (std::thread& thread : threads) thread.join();
    return statuses;
  }

  std::shared_ptr<FakeNccl> nccl_ = FakeNccl::Create();
  std::vector<std::unique_ptr<FabricEndpoint>> endpoints_;
  FabricEndpoint::Peers peers_;
};

TEST_F(NcclEndpointTest, ConnectsOnceAndRefusesAgain) {
  Make({0, 1});
  EXPECT_THAT(Connect({4, 4}), testing::Each(absl::OkStatus()));
  peers_.rank = 1;
  EXPECT_EQ(endpoints_[1]->Connect(peers_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(nccl_->OpenCommunicators(), 0);
  EXPECT_THAT(nccl_->Misuse(), testing::IsEmpty());
}

TEST_F(NcclEndpointTest, RanksOfDifferentEpochsRefuse) {
  Make({0, 1});
  for (const absl::Status& status : Connect({4, 5})) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("commit the same epoch"));
  }
  EXPECT_EQ(nccl_->OpenCommunicators(), 0);
}

TEST_F(NcclEndpointTest, ASharedGpuIsRefusedBeforeNcclIsAsked) {
  Make({0, 1, 0});
  for (const absl::Status& status : Connect({1, 1, 1})) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0 (cuda:0 of node) and rank 2"));
  }
  EXPECT_EQ(nccl_->CallCount("ncclCommInitRankConfig"), 0);
}

TEST_F(NcclEndpointTest, RefusesPeersThatAreNotItsOwn) {
  Make({0, 1});
  peers_.rank = 0;
  EXPECT_THAT(std::string(endpoints_[1]->Connect(peers_).status().message()),
              HasSubstr("rank 0 of 2 is not this endpoint, made for rank 1"));
  peers_.rank = 7;
  EXPECT_EQ(endpoints_[1]->Connect(peers_).status().code(), absl::StatusCode::kInvalidArgument);
  peers_.rank = 1;
  peers_.nodes.pop_back();
  EXPECT_THAT(std::string(endpoints_[1]->Connect(peers_).status().message()),
              HasSubstr("2 addresses and 1 nodes"));
  peers_.nodes.push_back("node");
  peers_.addresses[0] = "not an address";
  EXPECT_THAT(std::string(endpoints_[1]->Connect(peers_).status().message()),
              HasSubstr("the address of rank 0 (14 bytes) is not one of an NCCL endpoint"));
}

TEST_F(NcclEndpointTest, APeerThatNeverConnectsMeetsTheDeadline) {
  NcclEndpointOptions options;
  options.fabric.connect_timeout = absl::Milliseconds(50);
  endpoints_.push_back(CreateNcclEndpoint(nccl_->Api(), nccl_->CreateDevice(0), options).value());
  options.rank = 1;
  endpoints_.push_back(CreateNcclEndpoint(nccl_->Api(), nccl_->CreateDevice(1), options).value());
  peers_ = {{endpoints_[0]->Address(), endpoints_[1]->Address()}, {"a", "b"}, 0, 1};
  const absl::Status status = endpoints_[0]->Connect(peers_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("connect: no message from rank 1"));
  EXPECT_EQ(nccl_->OpenCommunicators(), 0);
}

}  // namespace
}  // namespace conclave
