#include "comm/fabric/local_fabric.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/fabric/p2p_fabric.h"

namespace conclave {

std::vector<std::unique_ptr<Fabric>> CreateLocalFabrics(int ranks) {
  const auto world = std::make_shared<LocalWorld>(ranks);
  std::vector<std::unique_ptr<Fabric>> fabrics;
  for (int rank = 0; rank < ranks; ++rank) {
    fabrics.push_back(std::make_unique<P2pFabric>(std::make_unique<LocalTransport>(world, rank)));
  }
  return fabrics;
}

class LocalEndpoint final : public FabricEndpoint {
 public:
  LocalEndpoint(std::shared_ptr<LocalFabricHub> hub, std::string address)
      : hub_(std::move(hub)), address_(std::move(address)) {}

  std::string Address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Fabric>> Connect(const Peers& peers) override {
    const int ranks = static_cast<int>(peers.addresses.size());
    if (peers.rank < 0 || peers.rank >= ranks || peers.addresses[peers.rank] != address_) {
      return absl::InvalidArgumentError(absl::StrCat("fabric peers: rank ", peers.rank, " of ",
                                                     ranks, " is not this endpoint (", address_,
                                                     "); send its own rank and address"));
    }
    for (int rank = 0; rank < ranks; ++rank) {
      if (!absl::StartsWith(peers.addresses[rank], "local:")) {
        return absl::InvalidArgumentError(
            absl::StrCat("fabric peers: address of rank ", rank,
                         " is not of a local endpoint; all ranks must use one kind of fabric"));
      }
    }
    const std::string key = absl::StrCat(peers.epoch, "|", absl::StrJoin(peers.addresses, ","));
    return std::make_unique<P2pFabric>(
        std::make_unique<LocalTransport>(hub_->Join(key, ranks), peers.rank));
  }

 private:
  const std::shared_ptr<LocalFabricHub> hub_;
  const std::string address_;
};

std::shared_ptr<LocalFabricHub> LocalFabricHub::Create() {
  return std::shared_ptr<LocalFabricHub>(new LocalFabricHub());
}

std::unique_ptr<FabricEndpoint> LocalFabricHub::CreateEndpoint() {
  absl::MutexLock lock(&mutex_);
  return std::make_unique<LocalEndpoint>(shared_from_this(), absl::StrCat("local:", endpoints_++));
}

std::shared_ptr<LocalWorld> LocalFabricHub::Join(const std::string& key, int ranks) {
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<LocalWorld> world = worlds_[key].lock();
  if (world == nullptr) {
    world = std::make_shared<LocalWorld>(ranks);
    worlds_[key] = world;
  }
  // Worlds that all ranks have left.
  for (auto it = worlds_.begin(); it != worlds_.end();) {
    it = it->second.expired() ? worlds_.erase(it) : std::next(it);
  }
  return world;
}

}  // namespace conclave
