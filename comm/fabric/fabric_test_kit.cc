#include "comm/fabric/fabric_test_kit.h"

#include <numeric>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/fabric/local_fabric.h"
#include "comm/fabric/nccl/fake_nccl.h"
#include "comm/fabric/nccl/nccl_endpoint.h"
#include "comm/fabric/ucx_fabric.h"
#include "glog/logging.h"

namespace conclave {

const char* FabricKindName(FabricKind kind) {
  switch (kind) {
    case FabricKind::kLocal:
      return "Local";
    case FabricKind::kUcxShared:
      return "UcxShared";
    case FabricKind::kUcxTcp:
      return "UcxTcp";
    case FabricKind::kNcclFake:
      return "NcclFake";
  }
  LOG(FATAL) << "no such kind: " << static_cast<int>(kind);
}

namespace {

// NCCL connects all ranks at once: each on a thread.
std::vector<std::unique_ptr<Fabric>> MakeNcclFabrics(int ranks, uint64_t epoch) {
  const auto nccl = FakeNccl::Create();
  std::vector<std::unique_ptr<FabricEndpoint>> endpoints;
  FabricEndpoint::Peers peers;
  peers.epoch = epoch;
  for (int rank = 0; rank < ranks; ++rank) {
    NcclEndpointOptions options;
    options.rank = rank;
    options.fabric.spin = absl::ZeroDuration();  // more ranks than cores
    auto endpoint = CreateNcclEndpoint(nccl->Api(), nccl->CreateDevice(rank), options);
    CHECK(endpoint.ok()) << endpoint.status();
    peers.addresses.push_back((*endpoint)->Address());
    peers.nodes.push_back("node");
    endpoints.push_back(*std::move(endpoint));
  }
  std::vector<std::unique_ptr<Fabric>> fabrics(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank, own = peers]() mutable {
      own.rank = rank;
      auto fabric = endpoints[rank]->Connect(own);
      CHECK(fabric.ok()) << fabric.status();
      fabrics[rank] = *std::move(fabric);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return fabrics;
}

}  // namespace

std::vector<std::unique_ptr<Fabric>> MakeFabrics(FabricKind kind, int ranks, uint64_t epoch) {
  if (kind == FabricKind::kLocal) return CreateLocalFabrics(ranks);
  if (kind == FabricKind::kNcclFake) return MakeNcclFabrics(ranks, epoch);
  std::vector<std::unique_ptr<FabricEndpoint>> endpoints;
  FabricEndpoint::Peers peers;
  peers.epoch = epoch;
  for (int rank = 0; rank < ranks; ++rank) {
    auto endpoint = CreateUcxEndpoint({});
    CHECK(endpoint.ok()) << endpoint.status();
    peers.addresses.push_back((*endpoint)->Address());
    peers.nodes.push_back(kind == FabricKind::kUcxTcp ? absl::StrCat("node", rank) : "node");
    endpoints.push_back(*std::move(endpoint));
  }
  std::vector<std::unique_ptr<Fabric>> fabrics;
  for (int rank = 0; rank < ranks; ++rank) {
    peers.rank = rank;
    auto fabric = endpoints[rank]->Connect(peers);
    CHECK(fabric.ok()) << fabric.status();
    fabrics.push_back(*std::move(fabric));
  }
  return fabrics;
}

void RunRanks(std::vector<std::unique_ptr<Fabric>>& fabrics,
              const std::function<void(int rank, Fabric& fabric)>& body) {
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < fabrics.size(); ++rank) {
    threads.emplace_back([&, rank] { body(static_cast<int>(rank), *fabrics[rank]); });
  }
  for (std::thread& thread : threads) thread.join();
}

FabricGroup WholeGroup(int ranks, int rank) {
  FabricGroup group;
  group.ranks.resize(ranks);
  std::iota(group.ranks.begin(), group.ranks.end(), 0);
  group.index = rank;
  return group;
}

}  // namespace conclave
