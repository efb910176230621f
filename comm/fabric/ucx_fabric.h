// The fabric over UCX: shared memory between processes of a node, TCP or RDMA between nodes. Waits
// sleep on UCX's event descriptor, so that more workers than cores do not starve one another. An
// endpoint and its fabric have one user at a time (any thread); Cancel comes from any. A process
// must not fork between CreateUcxEndpoint and the fabric's end.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric/fabric.h"

namespace conclave {

struct UcxOptions {
  // Ranks of the world if known; 1 skips UCX altogether, 0 is "not known yet".
  int world_size = 0;
  // How long a wait polls before it sleeps. Left out: 10 us when the node's ranks have a core each,
  // else none.
  std::optional<absl::Duration> spin;
  // UCX's names of transports and network devices; the user's UCX_TLS and UCX_NET_DEVICES win. Left
  // empty: shared memory and TCP, and RDMA where the machine has it; on all devices.
  std::string transports;
  std::string net_devices;
};

// Of the library that is loaded: "1.13.1".
std::string UcxVersion();

// Unavailable when UCX finds no transport.
absl::StatusOr<std::unique_ptr<FabricEndpoint>> CreateUcxEndpoint(const UcxOptions& options);

}  // namespace conclave
