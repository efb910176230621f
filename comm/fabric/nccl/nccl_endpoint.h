// The endpoint of a fabric over NCCL: what a rank tells the others before they connect, and the
// checks that need no NCCL: one rank a GPU, one version of NCCL, addresses of the right ranks. An
// endpoint is made at Assign and connects at Commit, on the engine's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/fabric/fabric.h"
#include "comm/fabric/nccl/nccl_api.h"
#include "comm/fabric/nccl/nccl_device.h"
#include "comm/fabric/nccl/nccl_fabric.h"

namespace conclave {

// What an address says.
struct NcclAddress {
  int rank = 0;
  int nccl_version = 0;
  NcclDeviceId device;
  std::optional<NcclUniqueId> id;  // rank 0's
};

std::string EncodeNcclAddress(const NcclAddress& address);

// InvalidArgument names the rank whose bytes these were said to be.
absl::StatusOr<NcclAddress> ParseNcclAddress(const std::string& bytes, int rank);

// InvalidArgument when the addresses do not make a world: a rank in another's place, no id.
// FailedPrecondition when two ranks share a GPU, or differ in NCCL's major or minor version; it
// names both ranks and what to do.
absl::Status CheckNcclPeers(const std::vector<NcclAddress>& addresses,
                            const std::vector<std::string>& nodes);

struct NcclEndpointOptions {
  int rank = 0;  // rank 0 makes the unique id
  NcclFabricOptions fabric;
};

// Takes the device. Internal when NCCL gives rank 0 no id.
absl::StatusOr<std::unique_ptr<FabricEndpoint>> CreateNcclEndpoint(
    std::shared_ptr<const NcclApi> api, std::unique_ptr<NcclDevice> device,
    const NcclEndpointOptions& options);

}  // namespace conclave
