#include "comm/fabric/nccl/nccl_endpoint.h"

#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/process_stamp.h"

namespace conclave {
namespace {

constexpr uint32_t kAddressMagic = 0x314c434e;  // "NCL1"
constexpr int kRanksMax = 1 << 16;

// An address on the wire, of one byte order: GPUs' hosts are little-endian.
struct AddressBytes {
  uint32_t magic = kAddressMagic;
  int32_t rank = 0;
  int32_t nccl_version = 0;
  int32_t device_index = 0;
  uint64_t host = 0;
  uint8_t uuid[16] = {};
  char bus_id[16] = {};
  uint32_t has_id = 0;
  uint32_t zero = 0;
  NcclUniqueId id = {};
  uint64_t checksum = 0;  // of what precedes it
};
static_assert(sizeof(AddressBytes) == 200);

uint64_t ChecksumOf(const AddressBytes& bytes) {
  return Fnv1a(&bytes, offsetof(AddressBytes, checksum));
}

// "rank 3 (cuda:0 of node-b)".
std::string RankOnDevice(const NcclAddress& address, const std::string& node) {
  return absl::StrCat("rank ", address.rank, " (cuda:", address.device.index, " of ", node, ")");
}

class NcclEndpoint final : public FabricEndpoint {
 public:
  NcclEndpoint(std::shared_ptr<const NcclApi> api, std::unique_ptr<NcclDevice> device,
               const NcclAddress& own, const NcclFabricOptions& options)
      : api_(std::move(api)),
        device_(std::move(device)),
        rank_(own.rank),
        address_(EncodeNcclAddress(own)),
        options_(options) {}

  std::string Address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Fabric>> Connect(const Peers& peers) override {
    const int ranks = static_cast<int>(peers.addresses.size());
    if (ranks == 0 || ranks > kRanksMax || static_cast<int>(peers.nodes.size()) != ranks) {
      return absl::InvalidArgumentError(
          absl::StrCat("fabric peers: ", ranks, " addresses and ", peers.nodes.size(),
                       " nodes; give one of each for every rank, at most ", kRanksMax));
    }
    if (peers.rank != rank_ || peers.rank < 0 || peers.rank >= ranks ||
        peers.addresses[peers.rank] != address_) {
      return absl::InvalidArgumentError(absl::StrCat("fabric peers: rank ", peers.rank, " of ",
                                                     ranks, " is not this endpoint, made for rank ",
                                                     rank_, "; send its own rank and address"));
    }
    std::vector<NcclAddress> addresses;
    for (int rank = 0; rank < ranks; ++rank) {
      ASSIGN_OR_RETURN(NcclAddress address, ParseNcclAddress(peers.addresses[rank], rank));
      addresses.push_back(address);
    }
    RETURN_IF_ERROR(CheckNcclPeers(addresses, peers.nodes));
    if (device_ == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(
          "fabric endpoint of rank ", rank_, ": connected before; make a new one each epoch"));
    }
    NcclFabric::World world;
    world.rank = rank_;
    world.size = ranks;
    world.epoch = peers.epoch;
    world.id = *addresses[0].id;
    return NcclFabric::Connect(api_, std::move(device_), world, options_);
  }

 private:
  const std::shared_ptr<const NcclApi> api_;
  std::unique_ptr<NcclDevice> device_;
  const int rank_;
  const std::string address_;
  const NcclFabricOptions options_;
};

}  // namespace

std::string EncodeNcclAddress(const NcclAddress& address) {
  AddressBytes bytes;
  bytes.rank = address.rank;
  bytes.nccl_version = address.nccl_version;
  bytes.device_index = address.device.index;
  bytes.host = address.device.host;
  std::memcpy(bytes.uuid, address.device.uuid.data(), sizeof(bytes.uuid));
  std::memcpy(bytes.bus_id, address.device.bus_id.data(), sizeof(bytes.bus_id));
  bytes.has_id = address.id.has_value() ? 1 : 0;
  if (address.id.has_value()) bytes.id = *address.id;
  bytes.checksum = ChecksumOf(bytes);
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
}

absl::StatusOr<NcclAddress> ParseNcclAddress(const std::string& text, int rank) {
  AddressBytes bytes;
  const bool whole = text.size() == sizeof(bytes);
  if (whole) std::memcpy(&bytes, text.data(), sizeof(bytes));
  if (!whole || bytes.magic != kAddressMagic || bytes.has_id > 1 ||
      bytes.checksum != ChecksumOf(bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "fabric peers: the address of rank ", rank, " (", text.size(),
        " bytes) is not one of an NCCL endpoint; use one kind of fabric on all workers"));
  }
  NcclAddress address;
  address.rank = bytes.rank;
  address.nccl_version = bytes.nccl_version;
  address.device.index = bytes.device_index;
  address.device.host = bytes.host;
  std::memcpy(address.device.uuid.data(), bytes.uuid, sizeof(bytes.uuid));
  std::memcpy(address.device.bus_id.data(), bytes.bus_id, sizeof(bytes.bus_id));
  if (bytes.has_id == 1) address.id = bytes.id;
  return address;
}

absl::Status CheckNcclPeers(const std::vector<NcclAddress>& addresses,
                            const std::vector<std::string>& nodes) {
  std::map<std::array<uint8_t, 16>, int> by_uuid;
  std::map<std::pair<uint64_t, std::array<char, 16>>, int> by_bus;
  for (int rank = 0; rank < static_cast<int>(addresses.size()); ++rank) {
    const NcclAddress& address = addresses[rank];
    if (address.rank != rank) {
      return absl::InvalidArgumentError(absl::StrCat("fabric peers: the address in place ", rank,
                                                     " is of rank ", address.rank,
                                                     "; list the addresses by rank"));
    }
    if (address.nccl_version / 100 != addresses[0].nccl_version / 100) {
      return absl::FailedPreconditionError(absl::StrCat(
          "fabric peers: rank 0 has NCCL ", NcclVersionText(addresses[0].nccl_version),
          " and rank ", rank, " (", nodes[rank], ") has ", NcclVersionText(address.nccl_version),
          "; install one version on all nodes, or use the UCX fabric"));
    }
    const auto [uuid, new_uuid] = by_uuid.emplace(address.device.uuid, rank);
    // Parts of one GPU (MIG) differ in uuid and share its place on the bus.
    const auto [bus, new_bus] =
        by_bus.emplace(std::pair(address.device.host, address.device.bus_id), rank);
    if (new_uuid && new_bus) continue;
    const int other = new_uuid ? bus->second : uuid->second;
    return absl::FailedPreconditionError(absl::StrCat(
        "fabric peers: ", RankOnDevice(addresses[other], nodes[other]), " and ",
        RankOnDevice(address, nodes[rank]),
        " are on one GPU, and NCCL takes one rank a GPU; give each worker a --device of its own, "
        "or use the UCX fabric"));
  }
  if (addresses.empty() || !addresses[0].id.has_value()) {
    return absl::InvalidArgumentError(
        "fabric peers: the address of rank 0 has no NCCL id; pass on what rank 0's Prepared "
        "message holds");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FabricEndpoint>> CreateNcclEndpoint(
    std::shared_ptr<const NcclApi> api, std::unique_ptr<NcclDevice> device,
    const NcclEndpointOptions& options) {
  NcclAddress own;
  own.rank = options.rank;
  own.nccl_version = api->version;
  own.device = device->id();
  if (options.rank == 0) {
    NcclUniqueId id = {};
    if (const NcclResult result = api->get_unique_id(&id); result != NcclResult::kSuccess) {
      return absl::InternalError(
          absl::StrCat("ncclGetUniqueId failed: ", api->get_error_string(result),
                       "; NCCL's last error: ", api->get_last_error(nullptr),
                       "; check NCCL_SOCKET_IFNAME, which names the interface that ranks meet on"));
    }
    own.id = id;
  }
  return std::make_unique<NcclEndpoint>(std::move(api), std::move(device), own, options.fabric);
}

}  // namespace conclave
