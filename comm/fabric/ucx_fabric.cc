#include "comm/fabric/ucx_fabric.h"

#include <sched.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/p2p_fabric.h"
#include "comm/fabric/solo_transport.h"
#include "comm/fabric/ucx_transport.h"
#include "comm/fabric/ucx_worker.h"

namespace conclave {
namespace {

constexpr uint32_t kAddressMagic = 0x31414643;  // "CFA1"
constexpr int kRanksMax = 1 << 16;              // the sender's bits in a tag
constexpr absl::Duration kSpinDefault = absl::Microseconds(10);

// What precedes UCX's bytes in an address.
struct AddressHeader {
  uint32_t magic = kAddressMagic;
  uint32_t size = 0;      // of UCX's bytes
  uint64_t checksum = 0;  // of UCX's bytes: UCX itself trusts what it unpacks
  ProcessStamp process;
};

std::string EncodeAddress(const std::string& ucx_address) {
  AddressHeader header;
  header.size = static_cast<uint32_t>(ucx_address.size());
  header.checksum = Fnv1a(ucx_address.data(), ucx_address.size());
  header.process = OwnProcessStamp();
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  return bytes + ucx_address;
}

absl::StatusOr<UcxPeer> ParseAddress(const std::string& bytes, int rank) {
  AddressHeader header;
  const bool whole = bytes.size() >= sizeof(header);
  if (whole) std::memcpy(&header, bytes.data(), sizeof(header));
  UcxPeer peer;
  if (whole) peer.address = bytes.substr(sizeof(header));
  if (!whole || header.magic != kAddressMagic || header.size != peer.address.size() ||
      header.checksum != Fnv1a(peer.address.data(), peer.address.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "fabric peers: the address of rank ", rank, " (", bytes.size(),
        " bytes) is not one of a UCX endpoint; pass on what its Prepared message holds"));
  }
  peer.process = header.process;
  return peer;
}

// Cores this process may run on.
int CoreCount() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

absl::Status CheckPeers(const FabricEndpoint::Peers& peers, const std::string& own_address) {
  const int ranks = static_cast<int>(peers.addresses.size());
  if (ranks == 0 || ranks > kRanksMax || static_cast<int>(peers.nodes.size()) != ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("fabric peers: ", ranks, " addresses and ", peers.nodes.size(),
                     " nodes; give one of each for every rank, at most ", kRanksMax));
  }
  if (peers.rank < 0 || peers.rank >= ranks || peers.addresses[peers.rank] != own_address) {
    return absl::InvalidArgumentError(
        absl::StrCat("fabric peers: rank ", peers.rank, " of ", ranks,
                     " is not this endpoint; send its own rank and address"));
  }
  return absl::OkStatus();
}

class UcxEndpoint final : public FabricEndpoint {
 public:
  // `worker` is null in a world of one rank.
  UcxEndpoint(UcxOptions options, std::unique_ptr<UcxWorker> worker)
      : options_(std::move(options)),
        worker_(std::move(worker)),
        address_(EncodeAddress(worker_ == nullptr ? "" : worker_->address())) {}

  std::string Address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Fabric>> Connect(const Peers& peers) override {
    RETURN_IF_ERROR(CheckPeers(peers, address_));
    const int ranks = static_cast<int>(peers.addresses.size());
    if (ranks == 1) {
      worker_.reset();
      return std::make_unique<P2pFabric>(std::make_unique<SoloTransport>());
    }
    if (worker_ == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(
          "fabric endpoint: made for a world of ", options_.world_size,
          " rank or connected before, and asked to connect to ", ranks, " ranks; make a new one"));
    }
    UcxTransport::World world;
    world.rank = peers.rank;
    world.epoch = peers.epoch;
    const ProcessStamp own = OwnProcessStamp();
    const bool shared = UsesSharedMemory(options_);
    int neighbours = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      ASSIGN_OR_RETURN(UcxPeer peer, ParseAddress(peers.addresses[rank], rank));
      peer.same_node = shared && peers.nodes[rank] == peers.nodes[peers.rank] &&
                       peer.process.SharesMemoryWith(own);
      if (peer.same_node) ++neighbours;
      world.peers.push_back(std::move(peer));
    }
    world.spin =
        options_.spin.value_or(neighbours <= CoreCount() ? kSpinDefault : absl::ZeroDuration());
    ASSIGN_OR_RETURN(std::unique_ptr<UcxTransport> transport,
                     UcxTransport::Create(std::move(worker_), std::move(world)));
    return std::make_unique<P2pFabric>(std::move(transport));
  }

 private:
  const UcxOptions options_;
  std::unique_ptr<UcxWorker> worker_;
  const std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FabricEndpoint>> CreateUcxEndpoint(const UcxOptions& options) {
  std::unique_ptr<UcxWorker> worker;
  if (options.world_size != 1) {
    ASSIGN_OR_RETURN(worker, UcxWorker::Create(options));
  }
  return std::make_unique<UcxEndpoint>(options, std::move(worker));
}

}  // namespace conclave
